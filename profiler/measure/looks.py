"""What several looks at one layer say together, and how far another look would lie from them.

A shared host has spells: for seconds or minutes its two cores exchange data more slowly, which adds
microseconds to every product, whatever its size, and so more to a small rank's ratio than to that
of a large one. Within a spell nothing looks disturbed. So a layer is looked at again when all
others have had their turn, and its interval counts how far looks lie apart, those at other layers
included: it is for a look at any other time.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.profiler.measure.intervals import NORMAL, student_t
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy

# What is known before, in degrees of freedom: of the spread of all layers, and of each.
_USUAL_OF_ALL = 20
_USUAL_OF_EACH = 4
# A layer of a microsecond is computed on one core, which waits for no other.
_MOST_RELATIVE = 0.3
# Half of an interval's width, in logarithms: beyond a factor of a thousand nothing more is said.
_WIDEST = math.log(1000.0)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How often a layer is looked at, and how far two looks usually lie apart.

    The standard deviation of a ratio between looks is usually hypot(`seconds` / latency,
    `relative`) of it, with `seconds` / latency at most 0.3. One look keeps the interval that it
    found itself.
    """

    count: int = 1
    seconds: float = 0.0
    relative: float = 0.0

    def policy(self, whole: TimingPolicy) -> TimingPolicy:
        """Of one look, so that all together take the time and reach the precision of `whole`."""
        return dataclasses.replace(
            whole,
            max_seconds=whole.max_seconds / self.count,
            min_windows=math.ceil(whole.min_windows / self.count),
            target_relative_ci=whole.target_relative_ci * math.sqrt(self.count),
        )


@dataclass(frozen=True, kw_only=True)
class _Together:
    """Weighted mean of the logarithms of one ratio, weights, and their chi-square around it."""

    mean: float
    weights: tuple[float, ...]
    chi_square: float

    @property
    def freedom(self) -> int:
        return len(self.weights) - 1


def together(seen: Sequence[Sequence[PairedTiming]], looks: Looks) -> list[PairedTiming]:
    """One timing for each task, of the looks at it; the spread is that of all tasks.

    Where looks lie farther apart than their intervals and the usual spread promise, all intervals
    are stretched by the Birge ratio (R. T. Birge, Phys. Rev. 40, 207, 1932) of all tasks, and that
    of each ratio by its own, in which the ratio of all stands for a few looks.

    Args:
        seen: The looks at every task, one or more, all of the same alternatives.
        looks: Their usual spread.
    """
    # What no clock gives stays as it is: the database refuses it.
    if looks.count == 1 or not all(_is_sound(timing) for timings in seen for timing in timings):
        return [timings[-1] for timings in seen]
    ratios = [_ratios(timings, looks) for timings in seen]
    # The ratios of a task have one reference and one time: together they are one observation.
    found = [statistics.fmean(one.chi_square for one in of_task) for of_task in ratios if of_task]
    freedom = _USUAL_OF_ALL + sum(of_task[0].freedom for of_task in ratios if of_task)
    stretch = (_USUAL_OF_ALL + sum(found)) / freedom
    return [
        _joined(timings, of_task, stretch=stretch)
        for timings, of_task in zip(seen, ratios, strict=True)
    ]


def _is_sound(timing: PairedTiming) -> bool:
    columns = (timing.latencies_s, timing.ratios, timing.ratio_lows, timing.ratio_highs)
    return all(0.0 < value < math.inf for column in columns for value in column)


def _ratios(timings: Sequence[PairedTiming], looks: Looks) -> list[_Together]:
    """Of every alternative but the reference."""
    found = []
    for i in range(1, len(timings[0].ratios)):
        logs = [math.log(timing.ratios[i]) for timing in timings]
        weights = tuple(1.0 / _variance(timing, i, looks=looks) for timing in timings)
        mean = sum(w * x for w, x in zip(weights, logs, strict=True)) / sum(weights)
        chi_square = sum(w * (x - mean) ** 2 for w, x in zip(weights, logs, strict=True))
        found.append(_Together(mean=mean, weights=weights, chi_square=chi_square))
    return found


def _variance(timing: PairedTiming, index: int, *, looks: Looks) -> float:
    """Of the logarithm of a ratio in one look: its own, and the usual one between looks."""
    width = math.log(timing.ratio_highs[index] / timing.ratio_lows[index])
    own = max(width, 1e-9) / (2 * NORMAL)
    added = min(looks.seconds / timing.latencies_s[index], _MOST_RELATIVE)
    return own**2 + looks.relative**2 + added**2


def _joined(
    timings: Sequence[PairedTiming], ratios: Sequence[_Together], *, stretch: float
) -> PairedTiming:
    """One timing of several; latencies are means, quantiles and samples the narrowest's."""
    best = min(timings, key=lambda timing: timing.half_width)
    halves = []
    for one in ratios:
        freedom = _USUAL_OF_EACH + one.freedom
        own_stretch = (_USUAL_OF_EACH * stretch + one.chi_square) / freedom
        # Of one more look: spells outlast a measurement, so that more looks share them.
        variance = own_stretch * len(one.weights) / sum(one.weights)
        halves.append(min(student_t(freedom) * math.sqrt(variance), _WIDEST))
    ends = [(one.mean - half, one.mean + half) for one, half in zip(ratios, halves, strict=True)]
    columns = zip(*(timing.latencies_s for timing in timings), strict=True)
    rounds = sum(timing.rounds for timing in timings)
    return dataclasses.replace(
        best,
        latencies_s=tuple(sum(column) / len(timings) for column in columns),
        ratios=(1.0, *(math.exp(one.mean) for one in ratios)),
        ratio_lows=(1.0, *(math.exp(low) for low, _ in ends)),
        ratio_highs=(1.0, *(math.exp(high) for _, high in ends)),
        rounds=rounds,
        windows=sum(timing.windows for timing in timings),
        disturbed_windows=sum(timing.disturbed_windows for timing in timings),
        converged=all(timing.converged for timing in timings),
        waiting=sum(timing.waiting * timing.rounds for timing in timings) / rounds,
    )
