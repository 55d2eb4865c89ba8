"""Layers as sums of their matrix products, each priced once.

A pair is the sum of its two products: what is known of a device that is not here are single ones.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import NotPricedError
from autotune.core.layer_columns import Index, LayerColumns, LayerKind, Whole
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import product_columns
from autotune.predictor.base import ColumnPredictor
from autotune.predictor.columns import SOURCE, EstimateColumns
from autotune.predictor.products.features import unique_products
from autotune.profiler.sources.aiconfigurator import MULTIPLE

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Seconds of products, (p,), the factor either way that each may be off by at 90 %, sources."""

    latency_s: Array
    factor: Array
    source: NDArray[np.str_]

    def of(self, rows: Index) -> Prices:
        """Some of the products."""
        return Prices(
            latency_s=self.latency_s[rows], factor=self.factor[rows], source=self.source[rows]
        )


class ProductSums(ColumnPredictor):
    """Seconds of layers from those of products.

    Raises:
        MeasurementError: a size that is no multiple of 32, which nobody timed (on asking).
    """

    @abstractmethod
    def _price(self, products: Array) -> Prices:
        """Prices of different products, rows (M, K, N)."""

    def estimates(self, shapes: Sequence[LayerShape]) -> list[Estimate]:
        """Many at once.

        Raises:
            MeasurementError: one that has no price.
        """
        found = []
        for answer in self.answers(shapes):
            if not isinstance(answer, Estimate):
                raise answer
            found.append(answer)
        return found

    def answer_columns(self, layers: LayerColumns) -> EstimateColumns:
        """Seconds and ratios; the source is that of a layer's products if they share one."""
        refused = _refused(layers)
        rows = np.setdiff1d(np.arange(len(layers)), [*refused])
        priced = [(rows, self._sums(layers.rows(rows)))] if len(rows) else []
        return EstimateColumns.merged(len(layers), priced, refused=refused)

    def _sums(self, layers: LayerColumns) -> EstimateColumns:
        asked, owner = product_columns(layers)
        of_dense, owner_of_dense = product_columns(layers.dense)
        products, which = unique_products(np.concatenate([asked, of_dense]))
        prices, count = self._price(products), len(layers)
        own = _Sums(prices.of(which[: len(asked)]), owner, count=count)
        dense = _Sums(prices.of(which[len(asked) :]), owner_of_dense, count=count)
        # As if the errors of both layers were independent; a dense layer is its own.
        of_ratio = np.where(layers.is_dense, 0.0, np.hypot(own.half_width, dense.half_width))
        return EstimateColumns(
            latency_s=own.latency_s,
            low_s=own.low_s,
            high_s=own.high_s,
            ratio=own.latency_s / dense.latency_s,
            ratio_half_width=of_ratio,
            source=own.source,
            refused={},
        )


class _Sums:
    """Prices of products summed by the layer that each belongs to, (n,)."""

    def __init__(self, prices: Prices, owner: Index, *, count: int) -> None:
        def summed(values: Array) -> Array:
            found = np.bincount(owner, weights=values, minlength=count)
            return found.astype(np.float64, copy=False)  # whole numbers where there are no layers

        self.latency_s = summed(prices.latency_s)
        self.low_s = summed(prices.latency_s / prices.factor)
        self.high_s = summed(prices.latency_s * prices.factor)
        self.half_width = np.log(self.high_s / self.low_s) / 2
        self.source = np.full(count, "predicted", dtype=SOURCE)
        products = np.bincount(owner, minlength=count)
        for source in np.unique(prices.source):
            self.source[summed((prices.source == source).astype(float)) == products] = source


def _refused(layers: LayerColumns) -> dict[int, NotPricedError]:
    """Why layers cannot be priced, by row."""
    found: dict[int, NotPricedError] = {}
    for kind, rows in layers.groups():
        if not kind.is_native:
            found |= {int(row): _unknown_form(layers.shape(int(row))) for row in rows}
            continue
        odd = _first_odd(layers, kind, rows=rows)
        found |= {int(rows[i]): _unknown_size(int(odd[i])) for i in np.flatnonzero(odd)}
    return found


def _first_odd(layers: LayerColumns, kind: LayerKind, *, rows: Index) -> Whole:
    """The first size that is no multiple, in the order of a layer's products; 0 if none, (n,)."""
    columns = [layers.in_features[rows], layers.rank[rows]]
    columns += [np.full(len(rows), width) for width in kind.parts]
    columns += [] if kind.parts else [layers.out_features[rows]]
    sizes = np.column_stack(columns)
    is_odd = sizes % MULTIPLE != 0
    first = sizes[np.arange(len(rows)), is_odd.argmax(axis=1)]
    return np.where(is_odd.any(axis=1), first, 0)


def _unknown_form(shape: LayerShape) -> NotPricedError:
    return NotPricedError(
        f"the form {shape.form} cannot be priced: the third-party tables hold products in "
        "the native precision only; measure it on the device itself"
    )


def _unknown_size(size: int) -> NotPricedError:
    return NotPricedError(
        f"a size of {size} cannot be priced: the third-party tables hold multiples of "
        f"{MULTIPLE} only, and latency may jump between them; choose a multiple, or measure on "
        "the device itself"
    )
