"""The latency table: measured, else interpolated, else predicted, else refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from autotune.core.errors import NotPricedError, option_name
from autotune.core.forms import PIVOTED
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Source
from autotune.devices.roofline import Roofline
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.learned_sources import LearnedLayers, RecoveredPairs
from autotune.predictor.layers.sources import (
    Guess,
    InterpolatedLayers,
    LatencySource,
    MeasuredLayers,
    RooflineGuesses,
)
from autotune.profiler.database.records import Measurement


class LatencyTable(LatencyPredictor):
    """Layer latencies of one fingerprint, rebuilt from its measurements.

    Each layer is priced by the first of the table's sources that knows it.
    """

    def __init__(
        self,
        measurements: Sequence[Measurement],
        roofline: Roofline,
        *,
        allow_extrapolation: bool = False,
        cliff: int = 1,
        is_elsewhere: bool = False,
    ) -> None:
        """`cliff`: ranks that are no multiple of it may be far slower (`spec.cliff(dtype)`).

        `is_elsewhere`: no point can be measured when it is missed. Pivoted pairs are learned too,
        and what is learned is kept in the cache folder.
        """
        measured = MeasuredLayers(measurements, roofline, cliff=cliff)
        self._sources: list[LatencySource] = [
            measured,
            InterpolatedLayers(measured, roofline, cliff=cliff),
            RecoveredPairs(measured, roofline),
            LearnedLayers(measured, roofline, keeps_fits=is_elsewhere),
        ]
        if is_elsewhere:
            self._sources.append(RecoveredPairs(measured, roofline, structure=PIVOTED))
        if allow_extrapolation:
            self._sources.append(RooflineGuesses(roofline))
        self._prices: dict[LayerShape, Estimate | Guess] = {}
        self._estimates: dict[LayerShape, Estimate] = {}

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Price `shapes` and their dense layers together: models answer many at once."""
        wanted = dict.fromkeys((*shapes, *(shape.dense for shape in shapes)))
        groups: dict[LatencySource, list[LayerShape]] = {}
        for shape in wanted:
            if shape not in self._prices and (source := self._source_of(shape)) is not None:
                groups.setdefault(source, []).append(shape)
        for source, group in groups.items():
            self._prices.update(zip(group, source.price(group), strict=True))

    def _source_of(self, shape: LayerShape) -> LatencySource | None:
        return next((source for source in self._sources if source.knows(shape)), None)

    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds and ratio of `shape`, with a 90 % interval (95 % where measured)."""
        if shape not in self._estimates:
            if shape not in self._prices:
                self.prepare([shape])
            self._estimates[shape] = self._estimate(shape)
        return self._estimates[shape]

    def _estimate(self, shape: LayerShape) -> Estimate:
        price = self._prices.get(shape)
        if price is None:
            raise _unknown(shape)
        if isinstance(price, Estimate):
            return price
        if price.ratio is not None:
            return self._from_ratio(shape.dense, price, ratio=price.ratio)
        assert price.latency_s is not None, "a guess is of seconds or of a ratio"
        guess = _spread(price.latency_s, price.half_width, source=price.source)
        if shape.form.is_unchanged:
            return replace(guess, ratio_half_width=0.0)
        dense = self.estimate(shape.dense)
        width = guess.log_half_width
        if dense.source != "measured":
            width = math.hypot(width, dense.log_half_width)
        return replace(guess, ratio=guess.latency_s / dense.latency_s, ratio_half_width=width)

    def _from_ratio(self, dense_shape: LayerShape, guess: Guess, *, ratio: float) -> Estimate:
        """A ratio times its dense layer's seconds."""
        dense, half_width = self.estimate(dense_shape), guess.half_width
        of_ratio = half_width if guess.ratio_half_width is None else guess.ratio_half_width
        if guess.add_dense_error and dense.source != "measured":
            half_width = math.hypot(half_width, dense.log_half_width)
        return replace(
            _spread(dense.latency_s * ratio, half_width, source=guess.source),
            ratio=ratio,
            ratio_half_width=_finite(of_ratio),
        )


def _spread(seconds: float, half_width: float, *, source: Source) -> Estimate:
    factor = math.exp(_finite(half_width))
    return Estimate(
        latency_s=seconds,
        low_s=seconds / factor,
        high_s=seconds * factor,
        ratio=1.0,
        source=source,
    )


def _finite(half_width: float) -> float:
    """Too few residuals for a quantile: a factor of two, and the source says it is a guess."""
    return half_width if math.isfinite(half_width) else math.log(2.0)


def _unknown(shape: LayerShape) -> NotPricedError:
    m, k, n = shape.tokens, shape.in_features, shape.out_features
    form = shape.form
    how = f" --form {form}" if form.suffix else ""
    return NotPricedError(
        f"nothing measured is near {m} tokens, {k}x{n}, {form}; measure it with "
        f"`autotune profile --tokens {m} --shape {k}x{n}{how}`, or allow a roofline guess with "
        f"{option_name('machine.allow_extrapolation')}"
    )
