"""Layers beyond what a table holds: scaled from its edge by the roofline, wide, and marked so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.core.forms import Form
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import Roofline
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.predictor.products.features import roofline_s
from autotune.profiler.database.records import Measurement

Array = NDArray[np.float64]
# Sizes keep their remainder by this when they are cut: alignment decides which kernels run.
_REMAINDER = 128
# Of a doubling beyond the edge where the table is too small to tell.
_UNKNOWN = 0.3


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The largest M, K and N of a table, and how far off (log, 90 %) a doubling beyond each is."""

    tokens: int
    in_features: int
    out_features: int
    doubling: tuple[float, float, float]

    @staticmethod
    def of(products: Array, seconds: Array, *, roofline: Roofline, dtype: str) -> Edges:
        """Learned from the products (n, 3) of a table and their seconds (n,).

        Each product at an edge is guessed from the one of half its size or less, as one beyond the
        edge will be from the edge.
        """
        most = products.max(axis=0)
        off = np.log(seconds / roofline_s(products, roofline, dtype=dtype))
        doubling = tuple(_error_of_doubling(products, off, axis=axis) for axis in range(3))
        tokens, in_features, out_features = (int(size) for size in most)
        return Edges(
            tokens=tokens,
            in_features=in_features,
            out_features=out_features,
            doubling=doubling,  # type: ignore[arg-type]
        )

    def hold(self, shape: LayerShape) -> bool:
        """Whether the layer is within the table."""
        return (
            shape.tokens <= self.tokens
            and shape.in_features <= self.in_features
            and shape.out_features <= self.out_features
        )

    def nearest(self, shape: LayerShape) -> LayerShape:
        """The layer within the table that is most like it."""
        widths = shape.widths
        cut = tuple(_cut(width, self.out_features // len(widths)) for width in widths)
        in_features = _cut(shape.in_features, self.in_features)
        form = shape.form
        rank = _cut(form.rank, min(in_features, sum(cut))) if form.rank else 0
        return LayerShape(
            tokens=min(shape.tokens, self.tokens),
            in_features=in_features,
            out_features=sum(cut),
            form=Form(rank=rank, structure=form.structure, precision=form.precision),
            dtype=shape.dtype,
            parts=cut if shape.parts else (),
        )

    def half_width(self, shape: LayerShape) -> float:
        """By how much (log) the way beyond the edges adds to the interval."""
        sizes = (shape.tokens, shape.in_features, shape.out_features)
        most = (self.tokens, self.in_features, self.out_features)
        ways = (max(0.0, math.log2(size / edge)) for size, edge in zip(sizes, most, strict=True))
        return sum(way * error for way, error in zip(ways, self.doubling, strict=True))


def edges_of(rows: Sequence[Measurement], roofline: Roofline, *, dtype: str) -> Edges:
    """The edges of what was measured, of the dense layers beside all that was timed."""
    dense_s = {row.shape.dense: row.dense_latency_s for row in rows}
    products = [(shape.tokens, shape.in_features, shape.out_features) for shape in dense_s]
    return Edges.of(
        np.array(products, dtype=np.float64),
        np.array([*dense_s.values()], dtype=np.float64),
        roofline=roofline,
        dtype=dtype,
    )


class WithinEdges(LatencyPredictor):
    """Another predictor's answers, and `extrapolated` ones of what lies beyond its table."""

    def __init__(self, predictor: LatencyPredictor, edges: Edges, *, roofline: Roofline) -> None:
        self._inner, self._edges, self._roofline = predictor, edges, roofline

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Let the other hear what it will be asked."""
        self._inner.prepare([self._asked(shape) for shape in shapes])

    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds and ratio of `shape`; beyond the table, of the nearest one within, scaled."""
        found = self._inner.estimate(self._asked(shape))
        if self._edges.hold(shape):
            return found
        seconds = self._scaled(shape, found)
        if shape.form.is_unchanged:
            return replace(seconds, ratio=1.0, ratio_half_width=0.0)
        dense = self.estimate(shape.dense)
        of_ratio = math.log(found.ratio_high / found.ratio)
        return replace(
            seconds,
            ratio=seconds.latency_s / dense.latency_s,
            ratio_half_width=math.hypot(of_ratio, self._edges.half_width(shape)),
        )

    def _asked(self, shape: LayerShape) -> LayerShape:
        return shape if self._edges.hold(shape) else self._edges.nearest(shape)

    def _scaled(self, shape: LayerShape, near: Estimate) -> Estimate:
        scale = self._roofline.latency_s(shape) / self._roofline.latency_s(self._asked(shape))
        factor = math.exp(self._edges.half_width(shape))
        return replace(
            near,
            latency_s=near.latency_s * scale,
            low_s=near.low_s * scale / factor,
            high_s=near.high_s * scale * factor,
            source="roofline" if near.source == "roofline" else "extrapolated",
        )


def _error_of_doubling(products: Array, off: Array, *, axis: int) -> float:
    """How much (log, 90 %) of what the roofline misses changes with a doubling up to an edge."""
    sizes = np.unique(products[:, axis])
    smaller = sizes[sizes <= sizes[-1] / 2]
    if not len(smaller):
        return _UNKNOWN
    others = [i for i in range(3) if i != axis]
    known = {
        (products[i, axis], *products[i, others]): off[i]
        for i in np.flatnonzero(np.isin(products[:, axis], (smaller[-1], sizes[-1])))
    }
    ways = math.log2(sizes[-1] / smaller[-1])
    errors = [
        abs(value - known[smaller[-1], *rest]) / ways
        for (size, *rest), value in known.items()
        if size == sizes[-1] and (smaller[-1], *rest) in known
    ]
    found = conformal_quantile(errors, 0.9)
    return found if math.isfinite(found) else _UNKNOWN


def _cut(size: int, most: int) -> int:
    """The size, or the largest one up to `most` with its remainder."""
    if size <= most:
        return size
    cut = most - (most - size) % _REMAINDER
    return cut if cut > 0 else most
