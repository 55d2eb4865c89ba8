"""Layers beyond what a table holds: scaled from its edge by the roofline, wide, and marked so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.core.layer_columns import LayerColumns, Mask, Whole
from autotune.devices.roofline import Roofline
from autotune.predictor.base import ColumnPredictor, LatencyPredictor
from autotune.predictor.columns import EstimateColumns
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

    def hold(self, layers: LayerColumns) -> Mask:
        """Whether layers are within the table, (n,)."""
        return (
            (layers.tokens <= self.tokens)
            & (layers.in_features <= self.in_features)
            & (layers.out_features <= self.out_features)
        )

    def nearest(self, layers: LayerColumns) -> LayerColumns:
        """The layers within the table that are most like them."""
        kinds = tuple(replace(kind, parts=self._cut_parts(kind.parts)) for kind in layers.kinds)
        in_features = _cut(layers.in_features, self.in_features)
        out_features = _cut(layers.out_features, self.out_features)
        for kind, rows in replace(layers, kinds=kinds).groups():
            if kind.parts:
                out_features[rows] = sum(kind.parts)
        return LayerColumns(
            tokens=np.minimum(layers.tokens, self.tokens),
            in_features=in_features,
            out_features=out_features,
            rank=_cut(layers.rank, np.minimum(in_features, out_features)),
            kind=layers.kind,
            kinds=kinds,
        )

    def _cut_parts(self, parts: tuple[int, ...]) -> tuple[int, ...]:
        if not parts:
            return parts
        widths = np.array(parts, dtype=np.int64)
        return tuple(_cut(widths, self.out_features // len(parts)).tolist())

    def half_width(self, layers: LayerColumns) -> Array:
        """By how much (log) the way beyond the edges adds to the interval, (n,)."""
        sizes = np.column_stack([layers.tokens, layers.in_features, layers.out_features])
        most = (self.tokens, self.in_features, self.out_features)
        found: Array = np.maximum(0.0, np.log2(sizes / most)) @ np.array(self.doubling)
        return found


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


class WithinEdges(ColumnPredictor):
    """Another predictor's answers, and `extrapolated` ones of what lies beyond its table."""

    def __init__(self, predictor: LatencyPredictor, edges: Edges, *, roofline: Roofline) -> None:
        super().__init__()
        self._inner, self._edges, self._roofline = predictor, edges, roofline

    def answer_columns(self, layers: LayerColumns) -> EstimateColumns:
        """Seconds and ratios; beyond the table, of the nearest layers within, scaled."""
        inside = self._edges.hold(layers)
        if inside.all():
            return self._inner.answer_columns(layers)
        within, beyond = np.flatnonzero(inside), np.flatnonzero(~inside)
        parts = [(beyond, self._beyond(layers.rows(beyond)))]
        if len(within):
            parts.append((within, self._inner.answer_columns(layers.rows(within))))
        return EstimateColumns.merged(len(layers), parts)

    def _beyond(self, layers: LayerColumns) -> EstimateColumns:
        near = self._edges.nearest(layers)
        found = self._inner.answer_columns(near)
        width = self._edges.half_width(layers)
        scale = self._roofline.latencies_s(layers) / self._roofline.latencies_s(near)
        latency_s = found.latency_s * scale
        ratio, of_ratio = np.ones(len(layers)), np.zeros(len(layers))
        changed = np.flatnonzero(~layers.is_unchanged)
        refused = {}
        if len(changed):
            dense = self.answer_columns(layers.rows(changed).dense)
            refused = {int(changed[row]): error for row, error in dense.refused.items()}
            ratio[changed] = latency_s[changed] / dense.latency_s
            own = np.log(found.ratio_high / found.ratio)
            of_ratio[changed] = np.hypot(own, width)[changed]
        return replace(
            found,
            latency_s=latency_s,
            low_s=found.low_s * scale / np.exp(width),
            high_s=found.high_s * scale * np.exp(width),
            ratio=ratio,
            ratio_half_width=of_ratio,
            source=np.where(found.source == "roofline", "roofline", "extrapolated"),
        ).without({**refused, **found.refused})


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


def _cut(sizes: Whole, most: Whole | int) -> Whole:
    """The sizes, or the largest ones up to `most` with their remainder, (n,)."""
    cut = most - (most - sizes) % _REMAINDER
    return np.where(sizes <= most, sizes, np.where(cut > 0, cut, most))
