"""Layer latencies on a device that is not here, from the products that others measured on it.

A pair is the sum of its two products: serving tables time single products only. Shapes that were
timed are taken from the table, others are predicted from it (`ProductRegressor`), within intervals
learned on shapes that were held out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autotune.devices.roofline import products
from autotune.devices.specs import DeviceSpec
from autotune.errors import MeasurementError
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.conformal import conformal_quantile
from autotune.predictor.products import ProductRegressor
from autotune.profiler.imported import MULTIPLE, SHAPE, ImportedTable, consensus
from autotune.types import Estimate, LayerShape

Array = NDArray[np.float64]
Product = tuple[int, int, int]
# A table for one M is fitted on the measured M nearest to it: errors a tenth larger, but in two
# seconds instead of forty.
_NEAREST_TOKENS = 8


class ImportedLatency(LatencyPredictor):
    """Seconds of layers from the tables of one device (profiler/imported.py).

    Raises:
        MeasurementError: a size that is no multiple of 32, which nobody timed (on asking).
    """

    def __init__(self, spec: DeviceSpec, tables: Sequence[ImportedTable]) -> None:
        self.spec, self.dtype = spec, tables[0].dtype
        self.sources = tuple(table.source for table in tables)
        rows = consensus(tables)
        self._table = rows[SHAPE].to_numpy(dtype=np.float64)
        self._seconds = rows["latency_s"].to_numpy(dtype=np.float64)
        self._half_width = _disagreement(tables, rows)
        self._known: dict[Product, tuple[float, float, str]] = {}
        self._fitted: dict[int, ProductRegressor] = {}

    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds and ratio; `imported` is measured by others, within what they differ by."""
        return self.estimates([shape])[0]

    def estimates(self, shapes: Sequence[LayerShape]) -> list[Estimate]:
        """Many at once: one prediction serves all that share an M."""
        self.prepare(shapes)
        return [self._sum(shape) for shape in shapes]

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Learn all products of `shapes`."""
        for shape in shapes:
            _check(shape)
        self._learn({p for s in shapes for p in (*products(s), *products(s.dense))})

    def _sum(self, shape: LayerShape) -> Estimate:
        parts = [self._known[product] for product in products(shape)]
        dense_s = sum(self._known[product][0] for product in products(shape.dense))
        seconds = sum(s for s, _, _ in parts)
        sources = {source for _, _, source in parts}
        return Estimate(
            latency_s=seconds,
            low_s=sum(s / factor for s, factor, _ in parts),
            high_s=sum(s * factor for s, factor, _ in parts),
            ratio=seconds / dense_s,
            source="imported" if sources == {"imported"} else "predicted",
        )

    def _learn(self, wanted: set[Product]) -> None:
        missing = np.array(sorted(wanted - self._known.keys()), dtype=np.float64)
        if not len(missing):
            return
        found = self._timed(missing)
        factor = float(np.exp(self._half_width))
        for product, seconds in zip(missing, found, strict=True):
            if np.isfinite(seconds):
                self._known[_key(product)] = (float(seconds), factor, "imported")
        unknown = missing[~np.isfinite(found)]
        for tokens in np.unique(unknown[:, 0]) if len(unknown) else []:
            rows = unknown[unknown[:, 0] == tokens]
            regressor = self._regressor(int(tokens))
            seconds = regressor.predict(rows)
            _, high = regressor.predict_interval(rows)
            for product, s, h in zip(rows, seconds, high, strict=True):
                self._known[_key(product)] = (float(s), float(h / s), "predicted")

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


def _key(product: Array) -> Product:
    m, k, n = (int(value) for value in product)
    return m, k, n


def _check(shape: LayerShape) -> None:
    sizes = [size for _, k, n in products(shape) for size in (k, n)]
    odd = [size for size in sizes if size % MULTIPLE]
    if odd:
        raise MeasurementError(
            f"a size of {odd[0]} cannot be priced: others timed multiples of {MULTIPLE} only, and "
            "beside them latency may jump; choose such a multiple, or measure on the device itself"
        )


def _disagreement(tables: Sequence[ImportedTable], rows: pd.DataFrame) -> float:
    """How far (in log seconds) a stack is from the median of all, at 90 %."""
    agreed = rows.set_index(SHAPE)["latency_s"]
    own = [table.rows.set_index(SHAPE)["latency_s"] for table in tables]
    off = [np.abs(np.log((seconds / agreed.reindex(seconds.index)).to_numpy())) for seconds in own]
    return conformal_quantile(np.concatenate(off), 0.9)
