"""A few measurements of the very device, on top of what is known of it from elsewhere.

Seconds of dense layers and ratios of pairs are corrected apart: a board that is slower as a whole
has the same ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autotune.core.layer_columns import LayerColumns, Mask
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Interval
from autotune.devices.roofline import Roofline
from autotune.predictor.base import ColumnPredictor, LatencyPredictor
from autotune.predictor.columns import EstimateColumns
from autotune.predictor.layers.transfer import SIZE_CLASSES
from autotune.predictor.learning.correction import Correction, Points, choose_correction
from autotune.profiler.database.records import Measurement

if TYPE_CHECKING:
    from autotune.predictor.products.adaptation import Adaptation

Array = NDArray[np.float64]
# 90 % of seconds and of ratios lie so near (log) to those of another day with the same software, on
# an H200 (benchmarks/results/2026-11-29-h200-energy.md). A file of points has no intervals at all.
_OTHER_DAY = 0.034


class OwnPoints(ColumnPredictor):
    """Another predictor's answers, corrected by points of the device; measured ones as they are.

    An interval is that of the points left out, where there are twenty or more; else the other's.
    """

    def __init__(
        self,
        predictor: LatencyPredictor,
        rows: Sequence[Measurement],
        *,
        roofline: Roofline,
        known: Adaptation | None = None,
    ) -> None:
        """`known`: what the other predictor learned from the dense layers itself."""
        super().__init__()
        self._known = known
        self._inner, self._roofline = predictor, roofline
        self.interval: Interval = predictor.interval
        self._measured = {row.shape: row for row in rows if row.converged}
        dense_s = {row.shape.dense: row.dense_latency_s for row in rows}
        plain = _are_pairs(LayerColumns.of([row.shape for row in rows]))
        pairs = {row.shape: row.ratio for row, pair in zip(rows, plain, strict=True) if pair}
        self.seconds = None if known is not None else self._learned(dense_s, of_ratio=False)
        self.ratio = self._learned(pairs, of_ratio=True)

    @property
    def points(self) -> int:
        """How many layers were measured."""
        return len(self._measured)

    def changes(self) -> str:
        """What the points changed, in words."""
        learned = (("seconds", self.seconds or self._known), ("ratios", self.ratio))
        found = [
            f"{name} corrected by {chosen.name} (error of layers left out "
            f"{100 * chosen.error_before:.1f} to {100 * chosen.error_after:.1f} %)"
            for name, chosen in learned
            if chosen is not None and chosen.name != "nothing"
        ]
        return "; ".join(found) or "nothing else corrected"

    def answer_columns(self, layers: LayerColumns) -> EstimateColumns:
        """Seconds and ratios, corrected; what was measured as it was."""
        measured = self._rows_measured(layers)
        rest = np.setdiff1d(np.arange(len(layers)), [*measured])
        known = EstimateColumns.of([_as_measured(row) for row in measured.values()])
        parts = [(np.array([*measured], dtype=np.intp), known)]
        if len(rest):
            parts.append((rest, self._corrected(layers.rows(rest))))
        return EstimateColumns.merged(len(layers), parts)

    def _rows_measured(self, layers: LayerColumns) -> dict[int, Measurement]:
        """The measurements of those layers that have one, by row."""
        known = LayerColumns.of([*self._measured])
        maybe = np.isin(layers.tokens, known.tokens) & np.isin(layers.rank, known.rank)
        maybe &= np.isin(layers.in_features, known.in_features)
        maybe &= np.isin(layers.out_features, known.out_features)
        shapes = {int(row): layers.shape(int(row)) for row in np.flatnonzero(maybe)}
        return {row: self._measured[s] for row, s in shapes.items() if s in self._measured}

    def _corrected(self, layers: LayerColumns) -> EstimateColumns:
        found = self._inner.answer_columns(layers)
        inner_dense = self._inner.answer_columns(layers.dense)
        dense_s = self._corrected_dense_s(layers.dense, inner_dense.latency_s)
        changed, pairs = ~layers.is_unchanged, _are_pairs(layers)
        width, of_ratio = found.log_half_width, np.log(found.ratio_high / found.ratio)
        ratio = found.ratio * self._factors(layers, where=pairs, of_ratio=True)
        of_ratio = np.where(pairs, _width(self.ratio, of_ratio), of_ratio)
        of_seconds = _width(self.seconds, width)
        if self.seconds is not None and self.seconds.half_width is not None:
            of_seconds = np.hypot(np.where(changed, of_ratio, 0.0), of_seconds)
        ratio, of_ratio = np.where(changed, ratio, 1.0), np.where(changed, of_ratio, 0.0)
        latency_s = dense_s * ratio
        return replace(
            found,
            latency_s=latency_s,
            low_s=latency_s * np.exp(-of_seconds),
            high_s=latency_s * np.exp(of_seconds),
            ratio=ratio,
            ratio_half_width=of_ratio,
        ).without({**inner_dense.refused, **found.refused})

    def _corrected_dense_s(self, dense: LayerColumns, latency_s: Array) -> Array:
        everywhere = np.ones(len(dense), dtype=bool)
        found = latency_s * self._factors(dense, where=everywhere, of_ratio=False)
        for row, measured in self._rows_measured(dense).items():
            found[row] = measured.latency_s
        return found

    def _factors(self, layers: LayerColumns, *, where: Mask, of_ratio: bool) -> Array:
        """What to multiply with, (n,); 1 elsewhere than `where`."""
        correction, found = self.ratio if of_ratio else self.seconds, np.ones(len(layers))
        if correction is not None and where.any():
            points = self._points(layers.rows(where), of_ratio=of_ratio)
            found[where] = np.exp(correction.shift(points))
        return found

    def _learned(self, known: dict[LayerShape, float], *, of_ratio: bool) -> Correction | None:
        """From the layers that the other predictor has an answer for."""
        layers = LayerColumns.of([*known])
        answers = self._inner.answer_columns(layers)
        rows = np.setdiff1d(np.arange(len(layers)), [*answers.refused])
        if not len(rows):
            return None
        guesses = answers.ratio if of_ratio else answers.latency_s
        off = (np.log([*known.values()]) - np.log(guesses))[rows]
        return choose_correction(self._points(layers.rows(rows), of_ratio=of_ratio), off)

    def _points(self, layers: LayerColumns, *, of_ratio: bool) -> Points:
        sizes = [layers.tokens, layers.in_features, layers.out_features]
        limit = self._roofline.latencies_s(layers)
        if of_ratio:
            sizes.append(layers.rank)
            limit /= self._roofline.latencies_s(layers.dense)
        names = np.column_stack([layers.in_features, layers.out_features])
        _, group = np.unique(names, axis=0, return_inverse=True)
        return Points(
            features=np.log(np.column_stack([*sizes, limit])),
            regime=np.searchsorted(SIZE_CLASSES, layers.tokens),
            group=group.ravel(),
        )


def _are_pairs(layers: LayerColumns) -> Mask:
    """Which are pairs of plain factors in native precision: what is corrected by others."""
    return ~layers.is_dense & layers.is_native


def _width(correction: Correction | None, otherwise: Array) -> Array:
    known = None if correction is None else correction.half_width
    return otherwise if known is None else np.full(len(otherwise), known)


def _as_measured(row: Measurement) -> Estimate:
    """A point as it was measured, with the interval of what another day will show."""
    own = math.log(row.ratio_high / row.ratio_low) / 2
    of_ratio = 0.0 if row.shape.form.is_unchanged else max(own, _OTHER_DAY)
    of_seconds = math.exp(max(own, _OTHER_DAY))
    return Estimate(
        latency_s=row.latency_s,
        low_s=row.latency_s / of_seconds,
        high_s=row.latency_s * of_seconds,
        ratio=row.latency_s / row.dense_latency_s,
        source="measured",
        ratio_half_width=of_ratio,
    )
