"""Gradient boosting on physical features, with split-conformal intervals.

The target is log(latency / roofline). The interval comes from residuals on shapes that the model
did not see: folds are whole (K, N) groups, because random rows of one shape leak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from autotune.devices.roofline import Roofline
from autotune.predictor.conformal import conformal_quantile
from autotune.predictor.features import feature_matrix
from autotune.types import LayerShape

MIN_ROWS = 24
MIN_GROUPS = 3


class LatencyRegressor:
    """Seconds of any layer, learned from measured ones; bit-equal when refitted on equal data."""

    def __init__(self, roofline: Roofline, coverage: float = 0.9) -> None:
        self.roofline = roofline
        self.coverage = coverage
        self._model: HistGradientBoostingRegressor | None = None
        self.half_width = math.inf

    @staticmethod
    def enough(shapes: Sequence[LayerShape]) -> bool:
        """Whether there is data to fit and to hold out: rows, and distinct (K, N)."""
        groups = {(s.in_features, s.out_features) for s in shapes}
        return len(shapes) >= MIN_ROWS and len(groups) >= MIN_GROUPS

    def fit(self, shapes: Sequence[LayerShape], latency_s: Sequence[float]) -> LatencyRegressor:
        """Fit on measured layers and set the conformal half width (in log seconds).

        Raises:
            ValueError: fewer than `MIN_ROWS` rows or `MIN_GROUPS` shapes.
        """
        if not self.enough(shapes):
            raise ValueError(f"needs {MIN_ROWS} points of {MIN_GROUPS} shapes, got {len(shapes)}")
        x, base = feature_matrix(shapes, self.roofline)
        y = np.log(np.asarray(latency_s)) - base
        names = [f"{s.in_features}x{s.out_features}" for s in shapes]
        with threadpool_limits(1):
            residuals = np.empty(len(y))
            folds = GroupKFold(min(5, len(set(names))))
            for train, test in folds.split(x, y, names):
                guess = _new_model().fit(x[train], y[train]).predict(x[test])
                residuals[test] = np.abs(guess - y[test])
            self.half_width = conformal_quantile(residuals, self.coverage)
            self._model = _new_model().fit(x, y)
        return self

    def predict(self, shapes: Sequence[LayerShape]) -> NDArray[np.float64]:
        """Seconds, (len(shapes))."""
        assert self._model is not None, "fit first"
        x, base = feature_matrix(shapes, self.roofline)
        with threadpool_limits(1):
            seconds: NDArray[np.float64] = np.exp(self._model.predict(x) + base)
        return seconds


def _new_model() -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=120, learning_rate=0.12, max_leaf_nodes=15, min_samples_leaf=3,
        l2_regularization=0.1, early_stopping=False, random_state=0,
    )  # fmt: skip
