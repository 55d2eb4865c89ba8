"""Layers as sums of their matrix products, each priced once.

A pair is the sum of its two products: what is known of a device that is not here are single ones.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

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
        missing = sorted(p for p in wanted if p not in self._known)
        if missing:
            prices = self._price(np.array(missing, dtype=np.float64))
            self._known.update(zip(missing, prices, strict=True))

    def _sum(self, shape: LayerShape) -> Estimate:
        parts = [self._known[product] for product in products(shape)]
        dense = [self._known[product] for product in products(shape.dense)]
        dense_s = sum(part.latency_s for part in dense)
        seconds = sum(part.latency_s for part in parts)
        sources = {part.source for part in parts}
        low_s, high_s = _ends(parts)
        of_ratio = 0.0
        if not shape.is_dense:  # as if the errors of both layers were independent
            dense_low_s, dense_high_s = _ends(dense)
            of_ratio = math.hypot(
                math.log(high_s / low_s) / 2, math.log(dense_high_s / dense_low_s) / 2
            )
        return Estimate(
            latency_s=seconds,
            low_s=low_s,
            high_s=high_s,
            ratio=seconds / dense_s,
            source=sources.pop() if len(sources) == 1 else "predicted",
            ratio_half_width=of_ratio,
        )


def _ends(parts: Sequence[Price]) -> tuple[float, float]:
    """The least and the most seconds of several products."""
    low_s = sum(part.latency_s / part.factor for part in parts)
    return low_s, sum(part.latency_s * part.factor for part in parts)


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
