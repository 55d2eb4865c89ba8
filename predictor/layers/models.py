"""Seconds of layers and ratios of pairs, boosted over what kriging says of their products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from autotune.devices.roofline import Roofline
from autotune.predictor.layers.features import LayerArrays, distinct, product_columns
from autotune.predictor.products.features import roofline_s
from autotune.predictor.products.kriging import ProductKriging

Array = NDArray[np.float64]
# Unlike any value; a column of nothing but NaN stops scikit-learn's binning (1.9.1).
_ABSENT = -100.0
# Measured seconds are noisier than a median over stacks: less exact krigings than those of tables.
_NOISES = (float(np.exp(-7.0)), float(np.exp(-5.0)))
_KRIGED = 4


class KnownProducts:
    """What measured dense layers say of any product."""

    def __init__(self, roofline: Roofline, dtype: str, *, products: Array) -> None:
        """Of products (n, 3); there may be none. `fit` or `restore` come next."""
        self._roofline, self._dtype = roofline, dtype
        self._kriging = ProductKriging(roofline, _NOISES) if len(products) else None
        self.products, self.left_out = products, np.empty((0, 2))

    def fit(self, log_seconds: Array) -> KnownProducts:
        """Learn from the log seconds (n,) of the products."""
        if self._kriging is not None:
            base = np.log(roofline_s(self.products, self._roofline, dtype=self._dtype))
            self.left_out = self._kriging.fit(self.products, log_seconds - base)
        return self

    @property
    def fitted(self) -> dict[str, Any] | None:
        """What `fit` learned, as arrays and numbers; None where there are no products."""
        return None if self._kriging is None else self._kriging.fitted

    def restore(self, fitted: Mapping[str, Any] | None) -> KnownProducts:
        """Be as `fit` left it, but for `describe_own`."""
        if self._kriging is not None and fitted is not None:
            self._kriging.restore(self.products, fitted)
        return self

    def describe(self, products: Array) -> Array:
        """(n, columns) of products, the last `_KRIGED` from the table; many layers share them."""
        index, inverse = distinct(products)
        unique = products[index]
        values = np.zeros((len(unique), 2)) if self._kriging is None else self._values(unique)
        return self._columns(unique, values)[inverse]

    def describe_own(self) -> Array:
        """The same of the table's products, of each without itself: as of others."""
        return self._columns(self.products, self.left_out)

    def _values(self, products: Array) -> Array:
        assert self._kriging is not None
        return self._kriging.values(products)

    def _columns(self, products: Array, values: Array) -> Array:
        mean = values.mean(axis=1)
        log_seconds = mean + np.log(roofline_s(products, self._roofline, dtype=self._dtype))
        columns = product_columns(products, self._roofline, dtype=self._dtype)
        apart = values[:, 0] - values[:, 1]
        return np.column_stack([columns, values, apart, log_seconds])


class SecondsModel:
    """A model of log(seconds) of layers."""

    def __init__(
        self, known: KnownProducts, *, boosting: HistGradientBoostingRegressor | None = None
    ) -> None:
        """To be fitted, or with the `boosting` of an earlier fit."""
        self._known, self.boosting = known, boosting or _boosting()

    def fit(self, layers: LayerArrays, log_seconds: Array) -> SecondsModel:
        """Learn from n layers and their log seconds, (n,)."""
        known = self._known
        columns, base = _described(known, layers)
        single = ~layers.pairs & (layers.parts == 0)
        if single.any():
            own = known.describe_own()
            columns[single, : own.shape[1]], base[single] = own, own[:, -1]
        self.boosting.fit(columns, log_seconds - base)
        return self

    def predict(self, layers: LayerArrays) -> Array:
        """Predict log(seconds), (n,), of n layers."""
        columns, base = _described(self._known, layers)
        log_seconds: Array = self.boosting.predict(columns) + base
        return log_seconds


class RatioModel:
    """log(pair / dense): what the sum of a pair's products over the dense one misses of it.

    A ratio is measured from interleaved calls, and what moves both layers alike is not in it.
    """

    def __init__(
        self, known: KnownProducts, *, boosting: HistGradientBoostingRegressor | None = None
    ) -> None:
        """To be fitted, or with the `boosting` of an earlier fit."""
        self._known, self.boosting = known, boosting or _boosting()

    def fit(self, pairs: LayerArrays, log_ratios: Array) -> RatioModel:
        """Learn from n pairs and their log ratios, (n,)."""
        columns, base = self._columns(pairs)
        self.boosting.fit(columns, log_ratios - base)
        return self

    def predict(self, pairs: LayerArrays) -> Array:
        """Predict log(seconds of the pair / of the dense layer), (n,)."""
        columns, base = self._columns(pairs)
        log_ratios: Array = self.boosting.predict(columns) + base
        return log_ratios

    def _columns(self, pairs: LayerArrays) -> tuple[Array, Array]:
        columns, log_seconds = _described(self._known, pairs)
        dense = self._known.describe(pairs.dense)[:, -_KRIGED:]
        base = log_seconds - dense[:, -1]
        return np.column_stack([columns, dense, base]), base


def _described(known: KnownProducts, layers: LayerArrays) -> tuple[Array, Array]:
    """(n, columns), `_ABSENT` for a second product that is not; log of their sum, (n,)."""
    down = known.describe(layers.down)
    up = np.full(down.shape, _ABSENT)
    base, difference = down[:, -1].copy(), np.full(len(down), _ABSENT)
    pairs = layers.pairs
    if pairs.any():
        up[pairs] = known.describe(layers.up[pairs])
        base[pairs] = np.logaddexp(down[pairs, -1], up[pairs, -1])
        difference[pairs] = down[pairs, -1] - up[pairs, -1]
    return np.column_stack([down, up, base, difference, np.log(layers.kept), layers.parts]), base


def _boosting() -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=60,
        learning_rate=0.16,
        max_leaf_nodes=15,
        min_samples_leaf=5,
        max_features=0.4,
        early_stopping=False,
        random_state=0,
    )
