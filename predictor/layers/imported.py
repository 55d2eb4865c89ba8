"""Layer latencies on a device that is not here, from the products that others measured on it.

Shapes that were timed are taken from the table, others are predicted from it (`ProductRegressor`),
within intervals learned on shapes that were held out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from autotune.devices.specs import DeviceSpec
from autotune.predictor.products.regressor import ProductRegressor
from autotune.predictor.products.sums import Array, Price, ProductSums
from autotune.profiler.sources.aiconfigurator import SHAPE, ImportedTable, consensus

# A table for one M is fitted on the measured M nearest to it: errors a tenth larger, but in two
# seconds instead of forty.
_NEAREST_TOKENS = 8


class ImportedLatency(ProductSums):
    """Seconds of layers from the tables of one device (profiler/sources/aiconfigurator.py).

    `imported` is measured by others, and stands as they agree on it: how far the next one will be
    off is for `TransferredLatency` to add.
    """

    def __init__(self, spec: DeviceSpec, tables: Sequence[ImportedTable]) -> None:
        super().__init__()
        self.spec, self.dtype = spec, tables[0].dtype
        self.sources = tuple(table.source for table in tables)
        rows = consensus(tables)
        self._table = rows[SHAPE].to_numpy(dtype=np.float64)
        self._seconds = rows["latency_s"].to_numpy(dtype=np.float64)
        self._fitted: dict[int, ProductRegressor] = {}

    def _price(self, products: Array) -> list[Price]:
        found = self._timed(products)
        prices = [Price(latency_s=float(s), factor=1.0, source="imported") for s in found]
        unknown = ~np.isfinite(found)
        for tokens in np.unique(products[unknown, 0]):
            at = np.flatnonzero(unknown & (products[:, 0] == tokens))
            regressor = self._regressor(int(tokens))
            seconds = regressor.predict(products[at])
            _, high = regressor.predict_interval(products[at])
            for i, s, h in zip(at, seconds, high, strict=True):
                prices[i] = Price(latency_s=float(s), factor=float(h / s), source="predicted")
        return prices

    def _timed(self, products: Array) -> Array:
        """Seconds from the table, NaN where nobody timed the product."""
        index = pd.MultiIndex.from_arrays(list(self._table.T))
        asked = pd.MultiIndex.from_arrays(list(products.T))
        return np.asarray(pd.Series(self._seconds, index=index).reindex(asked), dtype=np.float64)

    def _regressor(self, tokens: int) -> ProductRegressor:
        if tokens not in self._fitted:
            every = np.unique(self._table[:, 0])
            near = every[np.argsort(np.abs(np.log(every / tokens)))[:_NEAREST_TOKENS]]
            rows = np.isin(self._table[:, 0], near)
            regressor = ProductRegressor(self.spec, self.dtype, trees=0, stacked_trees=120)
            self._fitted[tokens] = regressor.fit(self._table[rows], self._seconds[rows])
        return self._fitted[tokens]
