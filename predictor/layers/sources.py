"""Where a latency table's numbers come from: one class for each way to price a layer."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Source
from autotune.devices.roofline import Roofline
from autotune.predictor.layers.interpolation import Curve, Point, interpolate
from autotune.predictor.layers.unsettled import Ratio, weigh_unsettled
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.profiler.database.records import Measurement

_ROOFLINE_FACTOR = 4.0
# The seconds of a dense layer that was never timed in calm are off by a tenth at least.
_UNSETTLED_DENSE = 1.1


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The price of a layer that was not measured: its seconds, or its ratio to the dense layer.

    `half_width` is that of the seconds' 90 % interval, in log; infinite where too little was
    measured to know it. With `add_dense_error` it is the ratio's alone, and the dense layer's own
    error comes on top where that was not measured. `ratio_half_width` is the ratio's where that is
    known by itself.
    """

    latency_s: float | None = None
    ratio: float | None = None
    half_width: float
    source: Source
    add_dense_error: bool = False
    ratio_half_width: float | None = None


class LatencySource(ABC):
    """One way to price layers.

    Contract (`autotune.testing.suites.latency_source` checks it):
    - `price` is asked for shapes that `knows` accepts, and gives one price each, in order.
    - A source may fit a model when it is first asked, so one thread at a time may ask.
    - It prices many shapes at once where that is cheaper; prices do not depend on which shapes are
      asked together, but for rounding.
    """

    @abstractmethod
    def knows(self, shape: LayerShape) -> bool:
        """Whether this source can price the layer."""

    @abstractmethod
    def price(self, shapes: Sequence[LayerShape]) -> Sequence[Estimate | Guess]:
        """The prices of known layers."""


class MeasuredLayers(LatencySource):
    """Layers as they were measured.

    A pair's seconds are its measured ratio times the dense layer's seconds: the ratio was taken
    from interleaved calls, so drift of the machine between two shapes cancels. A point that did not
    settle is weighed against the other ranks of its layer, and its source is "unsettled".
    """

    def __init__(self, rows: Sequence[Measurement], roofline: Roofline, *, cliff: int = 1) -> None:
        self.estimates: dict[LayerShape, Estimate] = {}
        unsettled = weigh_unsettled(rows, roofline, cliff=cliff)
        seen_s = _seconds_beside_pairs(rows)
        for row in rows:
            if row.shape.form.is_unchanged:
                self.estimates[row.shape] = _dense_estimate(row, seen_s.get(row.shape, ()))
        for row in rows:
            if row.shape.form.is_unchanged:
                continue
            dense = self.estimates.get(row.shape.dense)
            base = dense.latency_s if dense else row.latency_s / row.ratio
            weighed = unsettled.get(row.shape)
            found = weighed or Ratio.measured(row)
            self.estimates[row.shape] = Estimate(
                latency_s=base * found.value,
                low_s=base * found.low,
                high_s=base * found.high,
                ratio=found.value,
                source="unsettled" if weighed else "measured",
            )

    def knows(self, shape: LayerShape) -> bool:
        """Whether the very shape was measured."""
        return shape in self.estimates

    def price(self, shapes: Sequence[LayerShape]) -> list[Estimate]:
        """What was measured: with its 95 % interval, or weighed, with a 90 % interval."""
        return [self.estimates[shape] for shape in shapes]

    def half_width(self, shape: LayerShape) -> float:
        """Half the log-width of an unsettled point's interval; 0 of one that settled."""
        found = self.estimates[shape]
        return 0.0 if found.source == "measured" else found.log_half_width

    @functools.cached_property
    def learnable(self) -> dict[int, list[LayerShape]]:
        """Dense layers and plain pairs in native precision, by M: models are fitted on them."""
        found: dict[int, list[LayerShape]] = {}
        for shape in self.estimates:
            if not shape.form.suffix:
                found.setdefault(shape.tokens, []).append(shape)
        return found


def _seconds_beside_pairs(rows: Sequence[Measurement]) -> dict[LayerShape, list[float]]:
    """What unsettled dense layers took by themselves and beside each of their pairs."""
    unsettled = (row.shape for row in rows if row.shape.form.is_unchanged and not row.converged)
    found: dict[LayerShape, list[float]] = {shape: [] for shape in unsettled}
    for row in rows if found else ():
        if (seconds := found.get(row.shape.dense)) is not None:
            seconds.append(row.dense_latency_s)
    return found


def _dense_estimate(row: Measurement, seen_s: Sequence[float]) -> Estimate:
    """Of the dense layer itself; `seen_s` are its seconds beside its pairs.

    Its ratio is 1 whatever disturbed it, so an unsettled one is as unsure as they are different.
    """
    seconds = (row.latency_s, *seen_s)
    return Estimate(
        latency_s=row.latency_s,
        low_s=row.latency_s if row.converged else min(seconds) / _UNSETTLED_DENSE,
        high_s=row.latency_s if row.converged else max(seconds) * _UNSETTLED_DENSE,
        ratio=1.0,
        source="measured" if row.converged else "unsettled",
        ratio_half_width=0.0,
    )


class InterpolatedLayers(LatencySource):
    """Between measured ranks of the same layer, in the same structure and precision."""

    def __init__(self, measured: MeasuredLayers, roofline: Roofline, *, cliff: int) -> None:
        self._measured, self._roofline = measured, roofline
        curves: dict[tuple[LayerShape, str], list[Point]] = {}
        for shape, estimate in measured.estimates.items():
            if not shape.is_dense:
                curves.setdefault(_curve(shape), []).append((shape, estimate.latency_s))
        self._curves = {name: Curve(known, cliff=cliff) for name, known in curves.items()}
        errors: dict[str, list[float]] = {}
        for name, known in curves.items():
            settled = _settled(known, measured)
            curve = (
                self._curves[name] if len(settled) == len(known) else Curve(settled, cliff=cliff)
            )
            errors.setdefault(name[1], []).extend(curve.leave_one_out_errors(roofline))
        self._half_widths = {suffix: conformal_quantile(e, 0.9) for suffix, e in errors.items()}
        self._pooled = conformal_quantile([e for each in errors.values() for e in each], 0.9)
        self._seconds: dict[LayerShape, float] = {}

    def knows(self, shape: LayerShape) -> bool:
        """Whether measured ranks enclose the shape's."""
        if shape not in self._seconds and not shape.is_dense:
            curve = self._curves.get(_curve(shape))
            seconds = interpolate(shape, curve, roofline=self._roofline) if curve else None
            if seconds is not None:
                self._seconds[shape] = seconds
        return shape in self._seconds

    def price(self, shapes: Sequence[LayerShape]) -> list[Guess]:
        """Interpolated seconds; the half width is that of leaving settled ranks out.

        It is of curves in the same structure and precision, of all where these are too few.
        """
        return [
            Guess(
                latency_s=self._seconds[shape],
                half_width=math.hypot(self._between(shape), self._ends(shape)),
                source="interpolated",
            )
            for shape in shapes
        ]

    def _between(self, shape: LayerShape) -> float:
        found = self._half_widths[shape.form.suffix]
        return found if math.isfinite(found) else self._pooled

    def _ends(self, shape: LayerShape) -> float:
        """How unsure the less sure one of the enclosing ranks is."""
        found = self._curves[_curve(shape)].enclosing(shape)
        assert found is not None, "a known shape"
        return max(self._measured.half_width(end) for end, _ in found)


def _settled(known: Sequence[Point], measured: MeasuredLayers) -> list[Point]:
    return [entry for entry in known if measured.estimates[entry[0]].source == "measured"]


def _curve(shape: LayerShape) -> tuple[LayerShape, str]:
    """What the ranks of one staircase have in common."""
    return shape.dense, shape.form.suffix


class RooflineGuesses(LatencySource):
    """The least that the device's sheet allows, for want of anything better."""

    def __init__(self, roofline: Roofline) -> None:
        self._roofline = roofline

    def knows(self, shape: LayerShape) -> bool:
        """Every layer has a roofline."""
        del shape
        return True

    def price(self, shapes: Sequence[LayerShape]) -> list[Guess]:
        """The roofline's seconds, off by a factor of four either way."""
        width = math.log(_ROOFLINE_FACTOR)
        seconds = map(self._roofline.latency_s, shapes)
        return [Guess(latency_s=s, half_width=width, source="roofline") for s in seconds]
