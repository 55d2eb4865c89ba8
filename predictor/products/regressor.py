"""Seconds of single matrix products on a device, learned from a table of them.

Two models of log(latency / roofline) are averaged: gradient boosting on physical features, and
gradient boosting on what kriging over the neighbouring shapes leaves, which sees the kriging's
prediction (of training rows: without themselves) as features. Neither alone is as good on every
device (docs/predictor.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y
from threadpoolctl import threadpool_limits

from autotune.devices.roofline import Roofline
from autotune.devices.specs import DeviceSpec
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.predictor.learning.kriging import threads_for
from autotune.predictor.products.features import physical_features, roofline_s, unique_products
from autotune.predictor.products.kriging import ProductKriging, hints

Array = NDArray[np.float64]
# Kriging twice: smooth and almost exact, and rough with noise.
_NOISES = (float(np.exp(-9.0)), float(np.exp(-5.5)))
_STACKED_WEIGHT = 0.6
_MIN_CALIBRATION = 50
# Upper ends of M of the calibration's size classes: decode, small and large prefill.
_SIZE_CLASSES = (16.0, 512.0)


class ProductRegressor(RegressorMixin, BaseEstimator):
    """scikit-learn regressor: rows (M, K, N) to seconds.

    `predict_interval` is split-conformal per size class: a fifth of the (K, N) groups and of the M
    are held out to learn how far off the same model is on shapes that it did not see, at numbers of
    tokens that it saw and between these. `trees=0` leaves the first model out, for a table that is
    wanted at once.
    """

    def __init__(
        self,
        spec: DeviceSpec,
        dtype: str = "bf16",
        *,
        trees: int = 1000,
        stacked_trees: int = 600,
        coverage: float = 0.9,
        random_state: int = 0,
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.trees = trees
        self.stacked_trees = stacked_trees
        self.coverage = coverage
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> ProductRegressor:  # noqa: N803 (scikit-learn's name)
        """Learn from products (n, 3) and their seconds (n,).

        Raises:
            ValueError: not three columns, or a size or time that is not above zero.
        """
        products, seconds = check_X_y(X, y, dtype=np.float64)
        if products.shape[1] != 3 or not (products > 0).all() or not (seconds > 0).all():
            raise ValueError("products are rows (M, K, N) of sizes above zero, seconds above zero")
        self.n_features_in_ = 3
        with threadpool_limits(1):
            self.tokens_ = np.unique(products[:, 0])
            self.half_widths_ = self._half_widths(products, seconds)
            self.models_ = _Models(self).fit(products, seconds)
        return self

    def _half_widths(self, products: Array, seconds: Array) -> Array:
        """(2, classes): at numbers of tokens of the table, and between them."""
        held = _held_groups(products, self.random_state)
        between = np.isin(products[:, 0], _held_tokens(self.tokens_))
        learned = ~held & ~between
        widths = np.full((2, len(_SIZE_CLASSES) + 1), np.inf)
        if not learned.any():
            return widths
        trial = _Models(self).fit(products[learned], seconds[learned])
        for i, asked in enumerate((held & ~between, between)):
            if asked.sum() >= _MIN_CALIBRATION:
                errors = np.abs(trial.log_seconds(products[asked]) - np.log(seconds[asked]))
                widths[i] = _half_widths(products[asked], errors, coverage=self.coverage)
        return np.maximum.accumulate(np.where(np.isfinite(widths), widths, widths[0]))

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit` learned, as estimators of scikit-learn, arrays and numbers."""
        check_is_fitted(self, "models_")
        return {"half_widths": self.half_widths_, **self.models_.fitted}

    def restore(self, X: Array, fitted: Mapping[str, Any]) -> ProductRegressor:  # noqa: N803
        """Be as `fit` left it, from its `fitted` and the products that it learned from."""
        self.n_features_in_, self.tokens_ = 3, np.unique(X[:, 0])
        self.half_widths_ = fitted["half_widths"]
        self.models_ = _Models(self).restore(X, fitted)
        return self

    def predict(self, X: Array) -> Array:  # noqa: N803
        """Predict the latency in seconds, (n,), of products X (n, 3)."""
        check_is_fitted(self, "models_")
        products = check_array(X, dtype=np.float64)
        unique, which = unique_products(products)
        with threadpool_limits({"blas": 1, "openmp": threads_for(len(unique))}):
            seconds: Array = np.exp(self.models_.log_seconds(unique))
        return seconds[which]

    def predict_interval(self, X: Array) -> tuple[Array, Array]:  # noqa: N803
        """Low and high seconds, (n,) each, at the nominal coverage."""
        seconds = self.predict(X)
        factor = self.interval_factors(X)
        return seconds / factor, seconds * factor

    def interval_factors(self, X: Array) -> Array:  # noqa: N803
        """By what factor either way the seconds may be off, (n,), at the nominal coverage."""
        products = np.asarray(X, dtype=np.float64)
        between = ~np.isin(products[:, 0], self.tokens_)
        factors: Array = np.exp(self.half_widths_[between.astype(int), _size_class(products)])
        return factors


class _Models:
    """The two models: of physical features, and of what kriging leaves over."""

    def __init__(self, settings: ProductRegressor) -> None:
        self.settings, self.dtype = settings, settings.dtype
        self.roofline = Roofline.of(settings.spec, 1)
        self.kriging = ProductKriging(self.roofline, _NOISES, single=True)
        self.plain: HistGradientBoostingRegressor | None = None

    def fit(self, products: Array, seconds: Array) -> _Models:
        """Learn from products (n, 3) and seconds (n,)."""
        settings = self.settings
        physical = physical_features(products, self.roofline, dtype=self.dtype)
        target = np.log(seconds / roofline_s(products, self.roofline, dtype=self.dtype))
        left_out = self.kriging.fit(products, target)
        if settings.trees:
            self.plain = HistGradientBoostingRegressor(
                max_iter=settings.trees,
                learning_rate=60 / max(settings.trees, 400),
                min_samples_leaf=10,
                max_features=0.4,
                early_stopping=False,
                random_state=settings.random_state,
            ).fit(physical, target)
        self.stacked = HistGradientBoostingRegressor(
            max_iter=settings.stacked_trees,
            learning_rate=20 / max(settings.stacked_trees, 200),
            min_samples_leaf=20,
            max_features=0.3,
            early_stopping=False,
            random_state=settings.random_state,
        ).fit(np.column_stack([physical, hints(left_out)]), target - left_out.mean(axis=1))
        return self

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit` learned."""
        return {"kriging": self.kriging.fitted, "stacked": self.stacked, "plain": self.plain}

    def restore(self, products: Array, fitted: Mapping[str, Any]) -> _Models:
        """Be as `fit` left it."""
        self.kriging.restore(products, fitted["kriging"])
        self.stacked, self.plain = fitted["stacked"], fitted["plain"]
        return self

    def log_seconds(self, products: Array) -> Array:
        """Predict log(seconds), (n,), of products (n, 3)."""
        physical = physical_features(products, self.roofline, dtype=self.dtype)
        kriged = self.kriging.values(products)
        mixed = self.stacked.predict(np.column_stack([physical, hints(kriged)]))
        mixed += kriged.mean(axis=1)
        if self.plain is not None:
            plain = self.plain.predict(physical)
            mixed = _STACKED_WEIGHT * mixed + (1.0 - _STACKED_WEIGHT) * plain
        log_seconds: Array = mixed + np.log(roofline_s(products, self.roofline, dtype=self.dtype))
        return log_seconds


def _held_groups(products: Array, seed: int) -> NDArray[np.bool_]:
    """A fifth of the (K, N) groups."""
    groups, index = np.unique(products[:, 1:], axis=0, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(groups)) < len(groups) // 5
    held: NDArray[np.bool_] = chosen[index.ravel()]
    return held


def _held_tokens(tokens: Array) -> Array:
    """Every fifth M: both its neighbours stay, as they do around one that is not in the table."""
    return tokens[2:-1:5]


def _size_class(products: Array) -> NDArray[np.intp]:
    return np.searchsorted(_SIZE_CLASSES, products[:, 0])


def _half_widths(products: Array, errors: Array, *, coverage: float) -> Array:
    """Conformal quantile of every size class; of all together where a class has too few."""
    classes = _size_class(products)
    pooled = conformal_quantile(errors, coverage)
    widths = np.full(len(_SIZE_CLASSES) + 1, pooled)
    for i in range(len(widths)):
        if (classes == i).sum() >= _MIN_CALIBRATION:
            widths[i] = conformal_quantile(errors[classes == i], coverage)
    return widths
