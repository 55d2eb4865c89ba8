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

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Interval
from autotune.devices.roofline import Roofline
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.transfer import SIZE_CLASSES
from autotune.predictor.learning.correction import Correction, Points, choose_correction
from autotune.profiler.database.records import Measurement

if TYPE_CHECKING:
    from autotune.predictor.products.adaptation import Adaptation

Array = NDArray[np.float64]
# 90 % of seconds and of ratios lie so near (log) to those of another day with the same software, on
# an H200 (benchmarks/results/2026-11-29-h200-energy.md). A file of points has no intervals at all.
_OTHER_DAY = 0.034


class OwnPoints(LatencyPredictor):
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
        self._known = known
        self._inner, self._roofline = predictor, roofline
        self.interval: Interval = predictor.interval
        self._measured = {row.shape: row for row in rows if row.converged}
        dense_s = {row.shape.dense: row.dense_latency_s for row in rows}
        pairs = {row.shape: row.ratio for row in rows if _is_pair(row.shape)}
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

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Let the other hear what it will be asked."""
        self._inner.prepare([*shapes, *(shape.dense for shape in shapes)])

    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds and ratio of `shape`, corrected."""
        row = self._measured.get(shape)
        if row is not None:
            return _as_measured(row)
        found = self._inner.estimate(shape)
        dense = self._corrected(shape.dense, self._inner.estimate(shape.dense).latency_s)
        if shape.form.is_unchanged:
            width = _width(self.seconds, found.log_half_width)
            return _around(found, latency_s=dense, ratio=1.0, widths=(width, 0.0))
        ratio, of_ratio = found.ratio, math.log(found.ratio_high / found.ratio)
        if _is_pair(shape):
            ratio *= _factor(self.ratio, self._points([shape], of_ratio=True))
            of_ratio = _width(self.ratio, of_ratio)
        of_seconds = math.hypot(of_ratio, _width(self.seconds, found.log_half_width))
        if self.seconds is None or self.seconds.half_width is None:
            of_seconds = found.log_half_width
        return _around(found, latency_s=dense * ratio, ratio=ratio, widths=(of_seconds, of_ratio))

    def _corrected(self, dense: LayerShape, latency_s: float) -> float:
        row = self._measured.get(dense)
        if row is not None:
            return row.latency_s
        return latency_s * _factor(self.seconds, self._points([dense], of_ratio=False))

    def _learned(self, known: dict[LayerShape, float], *, of_ratio: bool) -> Correction | None:
        """From the layers that the other predictor has an answer for."""
        answers = zip(known, self._inner.answers([*known]), strict=True)
        found = {shape: one for shape, one in answers if isinstance(one, Estimate)}
        if not found:
            return None
        guesses = [one.ratio if of_ratio else one.latency_s for one in found.values()]
        off = np.log([known[shape] for shape in found]) - np.log(guesses)
        return choose_correction(self._points([*found], of_ratio=of_ratio), off)

    def _points(self, shapes: Sequence[LayerShape], *, of_ratio: bool) -> Points:
        rows = []
        for shape in shapes:
            sizes = [shape.tokens, shape.in_features, shape.out_features]
            limit = self._roofline.latency_s(shape)
            if of_ratio:
                sizes.append(shape.rank)
                limit /= self._roofline.latency_s(shape.dense)
            rows.append([*map(math.log, sizes), math.log(limit)])
        layers = [(shape.in_features, shape.out_features) for shape in shapes]
        names = sorted(set(layers))
        return Points(
            features=np.array(rows),
            regime=np.searchsorted(SIZE_CLASSES, [shape.tokens for shape in shapes]),
            group=np.array([names.index(layer) for layer in layers]),
        )


def _is_pair(shape: LayerShape) -> bool:
    """Whether it is a pair of plain factors in native precision: what is corrected by others."""
    return not shape.form.is_unchanged and not shape.is_dense and not shape.form.suffix


def _factor(correction: Correction | None, asked: Points) -> float:
    return 1.0 if correction is None else math.exp(correction.shift(asked)[0])


def _width(correction: Correction | None, otherwise: float) -> float:
    known = None if correction is None else correction.half_width
    return otherwise if known is None else known


def _around(
    found: Estimate, *, latency_s: float, ratio: float, widths: tuple[float, float]
) -> Estimate:
    of_seconds, of_ratio = widths
    return replace(
        found,
        latency_s=latency_s,
        low_s=latency_s * math.exp(-of_seconds),
        high_s=latency_s * math.exp(of_seconds),
        ratio=ratio,
        ratio_half_width=of_ratio,
    )


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
