"""Prices that are learned: from pairs measured near by, and from all layers of like lengths."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autotune.core.forms import NATIVE, PLAIN
from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.predictor.layers.features import MANY_PRODUCTS
from autotune.predictor.layers.sources import Guess, LatencySource, MeasuredLayers

if TYPE_CHECKING:
    from autotune.predictor.layers.recovery import RecoveryProcess
    from autotune.predictor.layers.regressor import LatencyRegressor

_NEAR = 2.0
_NEAREST_TOKENS, _FAR = 3, math.log(16.0)


class RecoveredPairs(LatencySource):
    """Ratios of pairs, learned by a Gaussian process from a few measured pairs.

    Where there are many plain pairs the regressor is as good and much faster to fit.
    """

    def __init__(
        self, measured: MeasuredLayers, roofline: Roofline, *, structure: str = PLAIN
    ) -> None:
        """`structure` is that of the pairs, which are in native precision."""
        self._measured, self._roofline, self._structure = measured, roofline, structure
        self._fitted: dict[int, RecoveryProcess | None] = {}

    def knows(self, shape: LayerShape) -> bool:
        """Whether it is such a pair, and few pairs but enough of them were measured."""
        return self._is_asked(shape) and self._process(shape.tokens) is not None

    def _is_asked(self, shape: LayerShape) -> bool:
        """Pairs of layers with one input are like others where the structure is plain."""
        form = shape.form
        if form.is_dense or (form.structure, form.precision) != (self._structure, NATIVE):
            return False
        return self._structure == PLAIN or not shape.parts

    @functools.cached_property
    def _pairs(self) -> list[LayerShape]:
        return [s for s in self._measured.estimates if self._is_asked(s) and not s.parts]

    def price(self, shapes: Sequence[LayerShape]) -> list[Guess]:
        """The ratios of pairs, each asked by itself."""
        return [self._guess(shape) for shape in shapes]

    def _guess(self, shape: LayerShape) -> Guess:
        process = self._process(shape.tokens)
        assert process is not None, "a known shape"
        ratios, half_widths = process.predict([shape])
        return Guess(
            ratio=float(ratios[0]),
            half_width=float(half_widths[0]),
            source="predicted",
            add_dense_error=True,
        )

    def _process(self, tokens: int) -> RecoveryProcess | None:
        """Fitted when first asked, on the pairs of M near the one asked where they are enough."""
        if tokens not in self._fitted:
            self._fitted[tokens] = self._fit(tokens)
        return self._fitted[tokens]

    def _fit(self, tokens: int) -> RecoveryProcess | None:
        from autotune.predictor.layers.recovery import MAX_PAIRS, RecoveryProcess

        plain = self._structure == PLAIN
        measured = {s.tokens for s in self._pairs}
        # Pivoted pairs are measured at few M: as far apart as these are, none may be near.
        among = (
            [m for m in measured if _is_near(m, tokens)] if plain else _nearest(measured, tokens)
        )
        near = [s for s in self._pairs if s.tokens in among]
        chosen = near if RecoveryProcess.enough(near) else self._pairs
        if plain and (len(chosen) > MAX_PAIRS or self._halves_known(tokens)):
            return None
        if not RecoveryProcess.enough(chosen):
            return None
        ratios = [self._measured.estimates[s].ratio for s in chosen]
        return RecoveryProcess(self._roofline, chosen, ratios=ratios)

    def _halves_known(self, tokens: int) -> bool:
        """Whether so many products were measured near M that kriging knows a pair's halves."""
        known = self._measured.learnable
        near = (shape for m in known if _is_near(m, tokens) for shape in known[m])
        return sum(s.is_dense and not s.parts for s in near) >= MANY_PRODUCTS


def _is_near(tokens: int, asked: int) -> bool:
    return 1 / _NEAR <= tokens / asked <= _NEAR


def _nearest(measured: Iterable[int], asked: int) -> list[int]:
    """The nearest measured M in log, few of them and none far away."""
    far = {m: abs(math.log(m / asked)) for m in measured}
    return [m for m in sorted(far, key=far.__getitem__)[:_NEAREST_TOKENS] if far[m] <= _FAR]


class LearnedLayers(LatencySource):
    """Seconds of dense layers and ratios of pairs, from a regressor of all that was measured.

    Where too few pairs were measured to learn ratios from, it gives seconds of pairs too.
    """

    def __init__(
        self, measured: MeasuredLayers, roofline: Roofline, *, keeps_fits: bool = False
    ) -> None:
        """`keeps_fits`: in the cache folder, for a table that stays as it is."""
        self._measured, self._roofline, self._keeps_fits = measured, roofline, keeps_fits
        self._nearest: dict[int, frozenset[int]] = {}
        self._fitted: dict[frozenset[int], LatencyRegressor | None] = {}

    def knows(self, shape: LayerShape) -> bool:
        """Whether it is dense or a plain pair, and enough was measured to fit on."""
        return not shape.form.suffix and self._regressor(shape.tokens) is not None

    def price(self, shapes: Sequence[LayerShape]) -> list[Guess]:
        """Seconds or ratios, all shapes of one M together."""
        groups: dict[int, list[LayerShape]] = {}
        for shape in shapes:
            groups.setdefault(shape.tokens, []).append(shape)
        found: dict[LayerShape, Guess] = {}
        for tokens, group in groups.items():
            found |= self._guesses(tokens, group)
        return [found[shape] for shape in shapes]

    def _guesses(self, tokens: int, shapes: Sequence[LayerShape]) -> dict[LayerShape, Guess]:
        regressor = self._regressor(tokens)
        assert regressor is not None, "known shapes"
        pairs = [s for s in shapes if not s.is_dense] if regressor.knows_ratios else []
        rest = [s for s in shapes if s.is_dense] if pairs else shapes
        found: dict[LayerShape, Guess] = {}
        if pairs:
            dense_known = [self._measured.knows(s.dense) for s in pairs]
            columns = regressor.predict_ratios(pairs, dense_known)
            for shape, ratio, of_ratio, width in zip(
                pairs, *(column.tolist() for column in columns), strict=True
            ):
                found[shape] = Guess(
                    ratio=ratio, half_width=width, source="predicted", ratio_half_width=of_ratio
                )
        if rest:
            seconds, half_widths = regressor.predict_with_half_widths(rest)
            for shape, value, width in zip(
                rest, seconds.tolist(), half_widths.tolist(), strict=True
            ):
                found[shape] = Guess(latency_s=value, half_width=width, source="predicted")
        return found

    def _regressor(self, tokens: int) -> LatencyRegressor | None:
        """Fitted (and scikit-learn imported) when first asked: measurements answer most tables.

        All M that have the same measured M nearest share a fit.
        """
        if tokens not in self._nearest:
            self._nearest[tokens] = self._nearest_measured(tokens)
        nearest = self._nearest[tokens]
        if nearest not in self._fitted:
            self._fitted[nearest] = self._fit(nearest)
        return self._fitted[nearest]

    def _nearest_measured(self, tokens: int) -> frozenset[int]:
        """The measured M to fit on: the nearest to the one asked where they are enough, else all.

        A whole GPU's database takes long to fit.
        """
        from autotune.predictor.layers.regressor import LatencyRegressor

        known = self._measured.learnable
        chosen = _nearest(known, tokens)
        near = [shape for m in chosen for shape in known[m]]
        return frozenset(chosen if LatencyRegressor.enough(near) else known)

    def _fit(self, nearest: frozenset[int]) -> LatencyRegressor | None:
        from autotune.predictor.layers.regressor import LatencyRegressor

        known = self._measured.learnable
        shapes = [shape for m in known if m in nearest for shape in known[m]]
        if not LatencyRegressor.enough(shapes):
            return None
        seconds = [self._measured.estimates[shape].latency_s for shape in shapes]
        regressor = LatencyRegressor(self._roofline)
        if not self._keeps_fits:
            return regressor.fit(shapes, seconds)
        from autotune.predictor.learning.fit_cache import content, kept_fit

        made_from = {
            "layers": [shape.to_json() for shape in shapes],
            "seconds": content(np.array(seconds)),
            "roofline": dataclasses.asdict(self._roofline),
        }
        fitted = kept_fit(made_from, lambda: regressor.fit(shapes, seconds).fitted)
        return regressor.restore(shapes, seconds, fitted=fitted)
