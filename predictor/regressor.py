"""Seconds of any layer from measured ones, with split-conformal intervals.

Kriging says from the dense layers that were measured what each product of a layer takes; gradient
boosting learns what their sum misses: the term of a pair, and a dense layer's own. The interval
comes from residuals on shapes that the model did not see: folds are whole (K, N) groups, because
random rows of one shape leak.
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
from autotune.predictor.features import LayerArrays, distinct, product_columns
from autotune.predictor.product_features import roofline_s
from autotune.predictor.product_kriging import ProductKriging
from autotune.types import LayerShape

Array = NDArray[np.float64]
MIN_ROWS = 24
MIN_GROUPS = 3
_FOLDS = 3
# Unlike any value; a column of nothing but NaN stops scikit-learn's binning (1.9.1).
_ABSENT = -100.0
# Measured seconds are noisier than a median over stacks: less exact krigings than those of tables.
_NOISES = (float(np.exp(-7.0)), float(np.exp(-5.0)))


class LatencyRegressor:
    """Seconds of any layer, learned from measured ones; bit-equal when refitted on equal data."""

    def __init__(self, roofline: Roofline, coverage: float = 0.9) -> None:
        self.roofline = roofline
        self.coverage = coverage
        self._model: _Model | None = None
        self._half_widths = (math.inf, math.inf)

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
        target = np.log(np.asarray(latency_s, dtype=np.float64))
        names = [f"{s.in_features}x{s.out_features}" for s in shapes]
        with threadpool_limits(1):
            residuals = np.empty(len(target))
            folds = GroupKFold(min(_FOLDS, len(set(names))))
            for train, test in folds.split(target, target, names):
                blind = _Model(self.roofline, [shapes[i] for i in train], target[train])
                guess = blind.log_seconds(LayerArrays.of([shapes[i] for i in test]))
                residuals[test] = np.abs(guess - target[test])
            self._half_widths = _half_widths(residuals, LayerArrays.of(shapes), self.coverage)
            self._model = _Model(self.roofline, shapes, target)
        return self

    def predict(self, shapes: Sequence[LayerShape]) -> Array:
        """Seconds, (len(shapes))."""
        return self.predict_with_half_widths(shapes)[0]

    def predict_with_half_widths(self, shapes: Sequence[LayerShape]) -> tuple[Array, Array]:
        """Seconds and half widths (log), (n,) each."""
        assert self._model is not None, "fit first"
        layers = LayerArrays.of(shapes)
        with threadpool_limits(1):
            seconds: Array = np.exp(self._model.log_seconds(layers))
        return seconds, np.where(layers.aligned, *self._half_widths)


def _half_widths(residuals: Array, layers: LayerArrays, coverage: float) -> tuple[float, float]:
    """Of aligned layers and of others; of all together where a class has too few."""
    pooled = conformal_quantile(residuals, coverage)
    own = [conformal_quantile(residuals[c], coverage) for c in (layers.aligned, ~layers.aligned)]
    aligned, other = (width if math.isfinite(width) else pooled for width in own)
    return aligned, other


class _Model:
    """Kriging under boosting, fitted."""

    def __init__(self, roofline: Roofline, shapes: Sequence[LayerShape], target: Array) -> None:
        self.roofline, self.dtype = roofline, shapes[0].dtype
        layers = LayerArrays.of(shapes)
        single = ~layers.pairs & (layers.parts == 0)
        self._kriging = None
        if single.any():
            products = layers.dense[single]
            self._kriging = ProductKriging(roofline, _NOISES)
            values = target[single] - np.log(roofline_s(products, roofline, self.dtype))
            own = self._kriging.fit(products, values)
        columns, base = self._features(layers)
        if single.any():
            # What the table says of a product that is in it: without itself, as of others.
            down, log_seconds = self._columns(products, *own)
            columns[single, : down.shape[1]], base[single] = down, log_seconds
        self._boosting = HistGradientBoostingRegressor(
            max_iter=90, learning_rate=0.12, max_leaf_nodes=15, min_samples_leaf=5,
            max_features=0.4, early_stopping=False, random_state=0,
        ).fit(columns, target - base)  # fmt: skip

    def log_seconds(self, layers: LayerArrays) -> Array:
        """log(seconds), (n,)."""
        columns, base = self._features(layers)
        log_seconds: Array = self._boosting.predict(columns) + base
        return log_seconds

    def _features(self, layers: LayerArrays) -> tuple[Array, Array]:
        """(n, columns), `_ABSENT` for a second product that is not; log of their sum, (n,)."""
        down, down_s = self._described(layers.down)
        up, up_s = np.full(down.shape, _ABSENT), np.full(len(down), -np.inf)
        if layers.pairs.any():
            up[layers.pairs], up_s[layers.pairs] = self._described(layers.up[layers.pairs])
        base = np.logaddexp(down_s, up_s)
        difference = np.where(layers.pairs, down_s - up_s, _ABSENT)
        kept = np.log(layers.kept)
        return np.column_stack([down, up, base, difference, kept, layers.parts]), base

    def _described(self, products: Array) -> tuple[Array, Array]:
        """Columns and log seconds of products; many layers share them."""
        index, inverse = distinct(products)
        unique = products[index]
        hints = (np.zeros(len(unique)), np.zeros((len(unique), 5)))
        if self._kriging is not None:
            hints = self._kriging.predict(unique)
        columns, log_seconds = self._columns(unique, *hints)
        return columns[inverse], log_seconds[inverse]

    def _columns(self, products: Array, values: Array, hints: Array) -> tuple[Array, Array]:
        log_seconds = values + np.log(roofline_s(products, self.roofline, self.dtype))
        columns = product_columns(products, self.roofline, self.dtype)
        return np.column_stack([columns, log_seconds, values, hints]), log_seconds
