"""Layer latencies on a device that is not here, from the products that others measured on it.

Shapes that were timed are taken from the table, others are predicted from it (`ProductRegressor`),
within intervals learned on shapes that were held out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from autotune.devices.specs import DeviceSpec
from autotune.predictor.columns import SOURCE
from autotune.predictor.learning.fit_cache import content, kept_fit
from autotune.predictor.products.sums import Array, Prices, ProductSums
from autotune.profiler.sources.aiconfigurator import SHAPE, ImportedTable, consensus

# Brings scikit-learn along, which shapes that were timed do without.
if TYPE_CHECKING:
    from autotune.predictor.products.regressor import ProductRegressor


class ImportedLatency(ProductSums):
    """Seconds of layers from the tables of one device (profiler/sources/aiconfigurator.py).

    `imported` is measured by others, and stands as they agree on it: how far the next one will be
    off is for `TransferredLatency` to add. `products` (n, 3) are what was timed, `seconds` (n,).
    """

    def __init__(self, spec: DeviceSpec, tables: Sequence[ImportedTable]) -> None:
        super().__init__()
        self.spec, self.dtype = spec, tables[0].dtype
        self.sources = tuple(table.source for table in tables)
        rows = consensus(tables)
        self.products = rows[SHAPE].to_numpy(dtype=np.float64)
        self.seconds = rows["latency_s"].to_numpy(dtype=np.float64)

    def _price(self, products: Array) -> Prices:
        seconds = self._timed(products)
        factor = np.ones(len(products))
        source = np.full(len(products), "imported", dtype=SOURCE)
        unknown = np.flatnonzero(np.isnan(seconds))
        if len(unknown):
            asked = products[unknown]
            seconds[unknown] = self._regressor.predict(asked)
            factor[unknown] = self._regressor.interval_factors(asked)
            source[unknown] = "predicted"
        return Prices(latency_s=seconds, factor=factor, source=source)

    def _timed(self, products: Array) -> Array:
        """Seconds from the table, NaN where nobody timed the product."""
        index = pd.MultiIndex.from_arrays(list(self.products.T))
        asked = pd.MultiIndex.from_arrays(list(products.T))
        found = pd.Series(self.seconds, index=index).reindex(asked)
        return found.to_numpy(dtype=np.float64, copy=True)

    @functools.cached_property
    def _regressor(self) -> ProductRegressor:
        """Learned from the whole table; the fit is kept for the next time."""
        from autotune.predictor.products.regressor import ProductRegressor

        regressor = ProductRegressor(self.spec, self.dtype, trees=0, stacked_trees=120)
        made_from = {
            "products": content(self.products, self.seconds),
            "dtype": self.dtype,
            "device": dataclasses.asdict(self.spec),
            "trees": (regressor.trees, regressor.stacked_trees),
        }
        fitted = kept_fit(made_from, lambda: regressor.fit(self.products, self.seconds).fitted)
        return regressor.restore(self.products, fitted)
