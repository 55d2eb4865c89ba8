"""FLAR's latency predictor, kept for comparison: a random forest on raw dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y

Array = NDArray[np.float64]


class FlarForest(RegressorMixin, BaseEstimator):
    """RandomForest(100) from sizes to seconds (FLAR, section 4.2: no features, no transforms)."""

    def __init__(self, trees: int = 100, random_state: int = 0) -> None:
        self.trees = trees
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> FlarForest:  # noqa: N803 (scikit-learn's name)
        """Learn from sizes (n, d) and seconds (n,)."""
        sizes, seconds = check_X_y(X, y, dtype=np.float64)
        self.n_features_in_ = sizes.shape[1]
        forest = RandomForestRegressor(self.trees, random_state=self.random_state)
        self.forest_ = forest.fit(sizes, seconds)
        return self

    def predict(self, X: Array) -> Array:  # noqa: N803
        """Predict the latency in seconds, (n,), of rows X (n, d)."""
        check_is_fitted(self, "forest_")
        seconds: Array = self.forest_.predict(check_array(X, dtype=np.float64))
        return seconds


def flar_recovery(pair_s: Array, dense_s: Array, *, rank_one_s: Array) -> Array:
    """FLAR's latency recovery: (t_r − t_1) / (t_dense − t_1), 0 at rank 1 and 1 at the dense layer.

    `ratio` (t_r / t_dense) is what this package works with; this is FLAR's published column.
    """
    recovery: Array = (pair_s - rank_one_s) / (dense_s - rank_one_s)
    return recovery
