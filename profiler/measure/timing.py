"""Paired, interleaved timing that says how sure it is and notices when it was disturbed.

Alternatives are called in turn, A B A B …, so that a slow spell of the machine hits both and
cancels in their ratio. Calls are grouped in windows; a window whose reference alternative ran
clearly slower than in the calmest windows was disturbed: it is set aside and measured again.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.core.errors import MeasurementError
from autotune.profiler.database.records import PERCENTS

_KEPT = 64
# Returns the seconds that the device itself counted, or None: then the clock here counts.
Runner = Callable[[], float | None]


@dataclass(frozen=True, kw_only=True)
class TimingPolicy:
    """When to stop.

    Sampling ends when the 95 % confidence interval of every ratio is narrower than
    ±`target_relative_ci`, or after `max_seconds`. `disturbed_above`: a window is disturbed when
    its reference median exceeds that multiple of the calm level (25th percentile of windows).
    """

    rounds_per_window: int = 5
    min_windows: int = 3
    max_seconds: float = 2.0
    target_relative_ci: float = 0.02
    disturbed_above: float = 1.15
    min_call_s: float = 200e-6
    warmup_rounds: int = 2


@dataclass(frozen=True, kw_only=True)
class PairedTiming:
    """Result for each alternative; index 0 is the reference.

    `ratios[i]` is the median over rounds of time_i / time_0 with its 95 % interval;
    `quantiles_s[i]` are at `PERCENTS` of all rounds, `samples_s[i]` at most `_KEPT` of them.
    """

    latencies_s: tuple[float, ...]
    ratios: tuple[float, ...]
    ratio_lows: tuple[float, ...]
    ratio_highs: tuple[float, ...]
    rounds: int
    windows: int
    disturbed_windows: int
    converged: bool
    quantiles_s: tuple[tuple[float, ...], ...] = ()
    samples_s: tuple[tuple[float, ...], ...] = ()

    @property
    def half_width(self) -> float:
        """Half the relative width of the widest ratio interval."""
        return max(
            (high - low) / (2 * ratio)
            for low, high, ratio in zip(self.ratio_lows, self.ratio_highs, self.ratios, strict=True)
        )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the median from order statistics (binomial, normal approx.).

    Assumes nothing about the distribution. Fewer than six values give their range.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n < 6:
        return ordered[0], ordered[-1]
    half = 0.98 * math.sqrt(n)
    low = max(0, math.floor(n / 2 - half))
    high = min(n - 1, math.ceil(n / 2 + half))
    return ordered[low], ordered[high]


def _time_window(
    runners: Sequence[Runner], loops: Sequence[int], *, rounds: int, clock: Callable[[], float]
) -> list[list[float]]:
    samples: list[list[float]] = [[] for _ in runners]
    for round_index in range(rounds):
        # Alternate the order, so that whatever comes first is nobody's advantage.
        order = range(len(runners)) if round_index % 2 == 0 else range(len(runners) - 1, -1, -1)
        for i in order:
            samples[i].append(_seconds(runners[i], loops[i], clock=clock))
    return samples


def _seconds(runner: Runner, loops: int, *, clock: Callable[[], float]) -> float:
    """Of one call, over `loops` of them."""
    start = clock()
    counted = [runner() for _ in range(loops)]
    elapsed = clock() - start
    device_s = [seconds for seconds in counted if seconds is not None]
    return (sum(device_s) if device_s else elapsed) / loops


def _calm(windows: list[list[list[float]]], above: float) -> list[list[list[float]]]:
    if not windows:
        return []
    medians = [statistics.median(window[0]) for window in windows]
    level = sorted(medians)[(len(medians) - 1) // 4]
    return [w for w, m in zip(windows, medians, strict=True) if m <= above * level]


def _summarise(
    calm: list[list[list[float]]], windows: int, *, converged: bool, count: int
) -> PairedTiming:
    samples = [[t for window in calm for t in window[i]] for i in range(count)]
    ratios = [[t / r for t, r in zip(column, samples[0], strict=True)] for column in samples]
    intervals = [median_interval(column) for column in ratios]
    return PairedTiming(
        latencies_s=tuple(statistics.median(column) for column in samples),
        ratios=tuple(statistics.median(column) for column in ratios),
        ratio_lows=tuple(low for low, _ in intervals),
        ratio_highs=tuple(high for _, high in intervals),
        rounds=len(samples[0]),
        windows=windows,
        disturbed_windows=windows - len(calm),
        converged=converged,
        quantiles_s=tuple(_quantiles(column) for column in samples),
        samples_s=tuple(tuple(column[:: -(-len(column) // _KEPT)]) for column in samples),
    )


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Of `values` at `PERCENTS`, the nearest of them each."""
    ordered = sorted(values)
    return tuple(ordered[round(percent / 100 * (len(ordered) - 1))] for percent in PERCENTS)


def time_interleaved(
    runners: Sequence[Runner],
    policy: TimingPolicy,
    *,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[float], None] = lambda fraction: None,
    slowed: Callable[[], str | None] = lambda: None,
) -> PairedTiming:
    """Time `runners` against the first of them until the policy is satisfied.

    `progress` hears after every window which fraction of the time cap is used. `slowed` says why
    the device ran below its clocks, if it did: the window is then as disturbed as by a neighbour.

    Disturbed windows are left out of the result and counted; the time cap bounds how often they
    are redone, and a result that stopped at the cap says so (`converged` False).

    Raises:
        MeasurementError: the device was slowed in every window.
    """
    for _ in range(policy.warmup_rounds):
        for runner in runners:
            runner()
    calls = [_seconds(runner, 1, clock=clock) for runner in runners]
    loops = [max(1, math.ceil(policy.min_call_s / max(t, 1e-7))) for t in calls]
    deadline = clock() + policy.max_seconds
    windows: list[list[list[float]]] = []
    done = 0
    while True:
        window = _time_window(runners, loops, rounds=policy.rounds_per_window, clock=clock)
        done += 1
        reason = slowed()
        if reason is None:
            windows.append(window)
        calm = _calm(windows, policy.disturbed_above)
        left = deadline - clock()
        progress(min(1.0, 1.0 - left / policy.max_seconds))
        late = left <= 0
        if late and not calm:
            raise MeasurementError(f"the device was slowed all the time: {reason}")
        if len(calm) < policy.min_windows and not late:
            continue
        result = _summarise(calm, done, converged=False, count=len(runners))
        narrow = result.half_width <= policy.target_relative_ci
        if narrow and len(calm) >= policy.min_windows:
            return _summarise(calm, done, converged=True, count=len(runners))
        if late:
            return result
