"""Layers as sums of their matrix products, each priced once.

A pair is the sum of its two products: what is known of a device that is not here are single ones.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import NotPricedError
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Source
from autotune.devices.roofline import products
from autotune.predictor.base import LatencyPredictor
from autotune.profiler.sources.aiconfigurator import MULTIPLE

Array = NDArray[np.float64]
Product = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Price:
    """Seconds of one product, and the factor either way that they may be off by at 90 %."""

    latency_s: float
    factor: float
    source: Source


class ProductSums(LatencyPredictor):
    """Seconds of layers from those of products.

    Raises:
        MeasurementError: a size that is no multiple of 32, which nobody timed (on asking).
    """

    def __init__(self) -> None:
        self._known: dict[Product, Price] = {}

    @abstractmethod
    def _price(self, products: Array) -> Sequence[Price]:
        """Prices of different products, rows (M, K, N)."""

    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds and ratio; its source is that of the products if they share one."""
        return self.estimates([shape])[0]

    def estimates(self, shapes: Sequence[LayerShape]) -> list[Estimate]:
        """Many at once: one prediction serves all that share an M."""
        for shape in shapes:
            if (refusal := _refusal(shape)) is not None:
                raise refusal
        self.prepare(shapes)
        return [self._sum(shape) for shape in shapes]

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Learn all products of the shapes that can be priced."""
        priced = [shape for shape in shapes if _refusal(shape) is None]
        wanted = {p for s in priced for p in (*products(s), *products(s.dense))}
        missing = sorted(wanted - self._known.keys())
        if missing:
            prices = self._price(np.array(missing, dtype=np.float64))
            self._known.update(zip(missing, prices, strict=True))

    def _sum(self, shape: LayerShape) -> Estimate:
        parts = [self._known[product] for product in products(shape)]
        dense_s = sum(self._known[product].latency_s for product in products(shape.dense))
        seconds = sum(part.latency_s for part in parts)
        sources = {part.source for part in parts}
        found = Estimate(
            latency_s=seconds,
            low_s=sum(part.latency_s / part.factor for part in parts),
            high_s=sum(part.latency_s * part.factor for part in parts),
            ratio=seconds / dense_s,
            source=sources.pop() if len(sources) == 1 else "predicted",
        )
        return replace(found, ratio_half_width=self._ratio_half_width(shape, found))

    def _ratio_half_width(self, shape: LayerShape, found: Estimate) -> float:
        """As if the errors of both layers were independent: 0 of a dense layer."""
        if shape.is_dense:
            return 0.0
        dense = [self._known[product] for product in products(shape.dense)]
        high_s = sum(part.latency_s * part.factor for part in dense)
        low_s = sum(part.latency_s / part.factor for part in dense)
        return math.hypot(found.log_half_width, math.log(high_s / low_s) / 2)


def _refusal(shape: LayerShape) -> NotPricedError | None:
    """Why a layer cannot be priced."""
    if shape.form.suffix:
        return NotPricedError(
            f"the form {shape.form} cannot be priced: the third-party tables hold products in "
            "the native precision only; measure it on the device itself"
        )
    sizes = [size for _, k, n in products(shape) for size in (k, n)]
    odd = [size for size in sizes if size % MULTIPLE]
    if not odd:
        return None
    return NotPricedError(
        f"a size of {odd[0]} cannot be priced: the third-party tables hold multiples of "
        f"{MULTIPLE} only, and latency may jump between them; choose a multiple, or measure on "
        "the device itself"
    )
