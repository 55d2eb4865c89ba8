"""The latency table: measured, else interpolated, else predicted, else refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import MeasurementError
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import Roofline
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.features import MANY_PRODUCTS
from autotune.predictor.layers.interpolation import interpolate, leave_one_out_errors
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.profiler.database.records import Measurement

if TYPE_CHECKING:
    from autotune.predictor.layers.recovery import RecoveryProcess
    from autotune.predictor.layers.regressor import LatencyRegressor

_ROOFLINE_FACTOR = 4.0
_NEAR = 2.0
_NEAREST_TOKENS, _FAR = 3, math.log(16.0)


class LatencyTable(LatencyPredictor):
    """Layer latencies of one fingerprint, rebuilt from its measurements.

    A pair's seconds are its measured ratio times the dense layer's seconds: the ratio was taken
    from interleaved calls, so drift of the machine between two shapes cancels.
    """

    def __init__(
        self,
        measurements: Sequence[Measurement],
        roofline: Roofline,
        *,
        allow_extrapolation: bool = False,
        cliff: int = 1,
    ) -> None:
        """`cliff`: ranks that are no multiple of it may be far slower (`spec.cliff(dtype)`)."""
        self.cliff = cliff
        self.roofline = roofline
        self.allow_extrapolation = allow_extrapolation
        self._measured: dict[LayerShape, Estimate] = {}
        self._by_layer: dict[LayerShape, list[tuple[LayerShape, float]]] = {}
        self._recoveries: dict[int, RecoveryProcess | None] = {}
        good = [row for row in measurements if row.error is None]
        self._add([row for row in good if row.rank == 0])
        self._add([row for row in good if row.rank > 0])
        self._half_width = self._interpolation_half_width()
        self._cache: dict[LayerShape, Estimate] = {}
        # Value and half width: seconds of layers, ratios of pairs.
        self._guessed: dict[LayerShape, tuple[float, float]] = {}
        self._guessed_ratios: dict[LayerShape, tuple[float, float]] = {}
        self._fitted: dict[int, LatencyRegressor | None] = {}

    def _add(self, rows: Sequence[Measurement]) -> None:
        for row in rows:
            assert row.latency_s and row.ratio and row.ratio_low and row.ratio_high
            dense = self._measured.get(row.shape.dense)
            base = dense.latency_s if dense else row.latency_s / row.ratio
            self._measured[row.shape] = Estimate(
                latency_s=base * row.ratio,
                low_s=base * min(row.ratio_low, row.ratio),
                high_s=base * max(row.ratio_high, row.ratio),
                ratio=row.ratio,
                source="measured",
            )
            if row.rank:
                known = self._by_layer.setdefault(row.shape.dense, [])
                known.append((row.shape, base * row.ratio))
        for known in self._by_layer.values():
            known.sort(key=lambda item: item[0].rank)

    def _interpolation_half_width(self) -> float:
        errors = [
            error
            for known in self._by_layer.values()
            for error in leave_one_out_errors(known, self.roofline, self.cliff)
        ]
        return conformal_quantile(errors, 0.9)

    def _regressor(self, tokens: int) -> LatencyRegressor | None:
        """Fitted (and scikit-learn imported) when first asked: measurements answer most tables.

        On the measured M nearest to the one asked where they are enough: a whole GPU's database
        takes long to fit.
        """
        if tokens not in self._fitted:
            self._fitted[tokens] = self._fit(tokens)
        return self._fitted[tokens]

    def _fit(self, tokens: int) -> LatencyRegressor | None:
        from autotune.predictor.layers.regressor import LatencyRegressor

        far = {s.tokens: abs(math.log(s.tokens / tokens)) for s in self._measured}
        chosen = [m for m in sorted(far, key=far.__getitem__)[:_NEAREST_TOKENS] if far[m] <= _FAR]
        near = [s for s in self._measured if s.tokens in chosen]
        shapes = near if LatencyRegressor.enough(near) else list(self._measured)
        if not LatencyRegressor.enough(shapes):
            return None
        seconds = [self._measured[shape].latency_s for shape in shapes]
        return LatencyRegressor(self.roofline).fit(shapes, seconds)

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Guess together all of `shapes` that measurements do not answer."""
        groups: dict[int, list[LayerShape]] = {}
        denses = {shape: shape.dense for shape in shapes}  # once: there may be 100,000
        denses.update({dense: dense for dense in denses.values()})
        for shape, dense in denses.items():
            known = shape in self._guessed or shape in self._guessed_ratios
            if known or self._from_measurements(shape, dense) is not None:
                continue
            if not shape.rank or self._recovery(shape.tokens) is None:
                groups.setdefault(shape.tokens, []).append(shape)
        for tokens, group in groups.items():
            regressor = self._regressor(tokens)
            if regressor is None:
                continue
            ratios = [s for s in group if s.rank] if regressor.knows_ratios else []
            seconds = [s for s in group if not s.rank] if ratios else group
            if ratios:
                dense_known = [denses[s] in self._measured for s in ratios]
                _note(self._guessed_ratios, ratios, regressor.predict_ratios(ratios, dense_known))
            if seconds:
                _note(self._guessed, seconds, regressor.predict_with_half_widths(seconds))

    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds and ratio of `shape`, with a 90 % interval (95 % where measured)."""
        if shape not in self._cache:
            self._cache[shape] = self._estimate(shape)
        return self._cache[shape]

    def _estimate(self, shape: LayerShape) -> Estimate:
        found = self._from_measurements(shape, shape.dense)
        if found is not None:
            return found
        if shape.rank and (guess := self._recovered(shape)) is not None:
            return guess
        regressor = self._regressor(shape.tokens)
        if regressor is not None:
            if shape not in self._guessed:
                self.prepare([shape])
            guess = _spread(*self._guessed[shape], "predicted")
            return self._with_ratio(shape, guess)
        if self.allow_extrapolation:
            seconds = self.roofline.latency_s(shape)
            return self._with_ratio(shape, _spread(seconds, math.log(_ROOFLINE_FACTOR), "roofline"))
        m, k, n = shape.tokens, shape.in_features, shape.out_features
        raise MeasurementError(
            f"nothing measured is near {m} tokens, {k}x{n}, rank {shape.rank or 'dense'}; measure "
            f"it with `autotune profile --tokens {m} --shape {k}x{n}`, or allow a roofline guess "
            "with --allow-extrapolation"
        )

    def _recovered(self, shape: LayerShape) -> Estimate | None:
        """A pair as a ratio learned from measured pairs, times its dense layer."""
        found = self._learned_ratio(shape)
        if found is None:
            return None
        dense = self.estimate(shape.dense)
        ratio, half_width = found
        guess = _spread(dense.latency_s * ratio, half_width, "predicted")
        return replace(guess, ratio=ratio)

    def _learned_ratio(self, shape: LayerShape) -> tuple[float, float] | None:
        """Ratio, and half width of the seconds: from few pairs' process or many's regressor."""
        process = self._recovery(shape.tokens)
        if process is not None:
            ratios, half_widths = process.predict([shape])
            dense, half_width = self.estimate(shape.dense), float(half_widths[0])
            if dense.source != "measured":
                half_width = math.hypot(half_width, math.log(dense.high_s / dense.low_s) / 2)
            return float(ratios[0]), half_width
        regressor = self._regressor(shape.tokens)
        if regressor is None or not regressor.knows_ratios:
            return None
        if shape not in self._guessed_ratios:
            self.prepare([shape])
        return self._guessed_ratios[shape]

    def _recovery(self, tokens: int) -> RecoveryProcess | None:
        """Fitted when first asked, on the pairs of M near the one asked where they are enough.

        Where there are many pairs the regressor is as good and much faster to fit.
        """
        if tokens not in self._recoveries:
            from autotune.predictor.layers.recovery import MAX_PAIRS, RecoveryProcess

            pairs = [s for s in self._measured if s.rank and not s.parts]
            near = [s for s in pairs if 1 / _NEAR <= s.tokens / tokens <= _NEAR]
            chosen = near if RecoveryProcess.enough(near) else pairs
            few = len(chosen) <= MAX_PAIRS and not self._halves_known(tokens)
            ratios = [self._measured[s].ratio for s in chosen]
            self._recoveries[tokens] = (
                RecoveryProcess(self.roofline, chosen, ratios)
                if few and RecoveryProcess.enough(chosen)
                else None
            )
        return self._recoveries[tokens]

    def _halves_known(self, tokens: int) -> bool:
        """Whether so many products were measured near M that kriging knows a pair's halves."""
        near = (s for s in self._measured if 1 / _NEAR <= s.tokens / tokens <= _NEAR)
        return sum(not s.rank and not s.parts for s in near) >= MANY_PRODUCTS

    def _from_measurements(self, shape: LayerShape, dense: LayerShape) -> Estimate | None:
        """As measured, or between measured ranks of the same layer."""
        if shape in self._measured:
            return self._measured[shape]
        known = self._by_layer.get(dense, ())
        seconds = interpolate(shape, known, self.roofline, self.cliff)
        if seconds is None:
            return None
        return self._with_ratio(shape, _spread(seconds, self._half_width, "interpolated"))

    def _with_ratio(self, shape: LayerShape, estimate: Estimate) -> Estimate:
        if not shape.rank:
            return estimate
        return replace(estimate, ratio=estimate.latency_s / self.estimate(shape.dense).latency_s)


def _note(
    known: dict[LayerShape, tuple[float, float]], shapes: Sequence[LayerShape],
    found: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:  # fmt: skip
    values, half_widths = found
    known.update(zip(shapes, zip(values.tolist(), half_widths.tolist(), strict=True), strict=True))


def _spread(seconds: float, half_width: float, source: str) -> Estimate:
    # Too few residuals for a quantile: a factor of two, and the source says it is a guess.
    factor = math.exp(half_width) if math.isfinite(half_width) else 2.0
    return Estimate(
        latency_s=seconds, low_s=seconds / factor, high_s=seconds * factor, ratio=1.0,
        source=source,  # type: ignore[arg-type]
    )  # fmt: skip
