"""Paired, interleaved timing that says how sure it is and notices when it was disturbed.

Alternatives are called in turn, A B A B …, so that a slow spell of the machine hits both and
cancels in their ratio. Calls are grouped in windows. A window was disturbed if this process had to
wait for its cores, or if the reference alternative ran clearly slower than in the calmest windows:
it is set aside and measured again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.core.errors import MeasurementError
from autotune.profiler.database.records import PERCENTS
from autotune.profiler.measure.intervals import NORMAL, grouped_interval, pooled, widened

_KEPT = 64
# Windows that make a result where too few were calm: more of them would only have waited more.
_FEWEST = 3
# Returns the seconds that the device itself counted, or None: then the clock here counts.
Runner = Callable[[], float | None]


@dataclass(frozen=True, kw_only=True)
class TimingPolicy:
    """When to stop.

    Sampling ends when the 95 % confidence interval of every ratio is narrower than
    ±`target_relative_ci`, or after `max_seconds`. A window has `rounds_per_window` rounds, or as
    many as take `window_seconds`, one at least: in windows that are longer than the pauses of a
    neighbour, none is calm. `disturbed_above`: a window is disturbed when
    its reference median exceeds that multiple of the calm level (25th percentile of windows).
    `waiting_above`: it is also disturbed when the process waited for cores for more than this share
    of it. `process_sd`: by how much the ratios of two calm processes differ (a standard deviation,
    relative), as memory and threads are placed anew in each; the intervals include it, and whether
    sampling may end is asked without it. `energy_seconds`: for so long every alternative runs once
    more, to count its energy, where the device does (0: not at all).
    """

    rounds_per_window: int = 5
    window_seconds: float = 0.3
    min_windows: int = 3
    max_seconds: float = 2.0
    target_relative_ci: float = 0.02
    disturbed_above: float = 1.15
    waiting_above: float = 0.02
    process_sd: float = 0.0
    min_call_s: float = 200e-6
    warmup_rounds: int = 2
    energy_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PairedTiming:
    """Result for each alternative; index 0 is the reference.

    `ratios[i]` is the median over rounds of time_i / time_0 with its 95 % interval;
    `quantiles_s[i]` are at `PERCENTS` of all rounds, `samples_s[i]` at most `_KEPT` of them.
    `waiting` is the share of the time of the windows used in which the process waited for cores;
    the intervals are wider by as much. `energies_j` of a call and `powers_w` are empty where they
    were not counted.
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
    waiting: float = 0.0
    energies_j: tuple[float | None, ...] = ()
    powers_w: tuple[float | None, ...] = ()

    @property
    def half_width(self) -> float:
        """Half the relative width of the widest ratio interval."""
        return max(
            (high - low) / (2 * ratio)
            for low, high, ratio in zip(self.ratio_lows, self.ratio_highs, self.ratios, strict=True)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Window:
    """Some rounds in a row: seconds of every alternative, and the share of them spent waiting."""

    samples: list[list[float]]
    waiting: float

    @property
    def reference_s(self) -> float:
        return statistics.median(self.samples[0])


def _time_window(
    runners: Sequence[Runner],
    loops: Sequence[int],
    *,
    rounds: range,
    clock: Callable[[], float],
    waited_s: Callable[[], float],
) -> _Window:
    samples: list[list[float]] = [[] for _ in runners]
    began_s, waited_before_s = clock(), waited_s()
    for round_index in rounds:
        # Alternate the order, so that whatever comes first is nobody's advantage.
        order = range(len(runners)) if round_index % 2 == 0 else range(len(runners) - 1, -1, -1)
        for i in order:
            samples[i].append(_seconds(runners[i], loops[i], clock=clock))
    took_s = clock() - began_s
    waiting = (waited_s() - waited_before_s) / took_s if took_s > 0 else 0.0
    return _Window(samples=samples, waiting=min(max(waiting, 0.0), 1.0))


def _seconds(runner: Runner, loops: int, *, clock: Callable[[], float]) -> float:
    """Of one call, over `loops` of them."""
    start = clock()
    counted = [runner() for _ in range(loops)]
    elapsed = clock() - start
    device_s = [seconds for seconds in counted if seconds is not None]
    return (sum(device_s) if device_s else elapsed) / loops


def _calm(windows: Sequence[_Window], policy: TimingPolicy) -> list[_Window]:
    """The windows that nothing disturbed."""
    alone = [window for window in windows if window.waiting <= policy.waiting_above]
    if not alone:
        return []
    level = sorted(window.reference_s for window in alone)[(len(alone) - 1) // 4]
    return [window for window in alone if window.reference_s <= policy.disturbed_above * level]


def _least_disturbed(
    windows: Sequence[_Window], calm: Sequence[_Window], *, count: int
) -> list[_Window]:
    """The calm windows, and of the others those that waited least, `count` together."""
    others = sorted((w for w in windows if w not in calm), key=lambda window: window.waiting)
    chosen = [*calm, *others[: max(0, count - len(calm))]]
    return [window for window in windows if window in chosen]


def _summarise(used: Sequence[_Window], *, windows: int, calm: int) -> PairedTiming:
    """Of the windows used; `calm` of all `windows` were not disturbed."""
    alternatives = range(len(used[0].samples))
    samples = [[t for window in used for t in window.samples[i]] for i in alternatives]
    grouped = [[_ratios(window, i) for window in used] for i in alternatives]
    waiting = statistics.fmean(window.waiting for window in used)
    ratios = [statistics.median(r for group in groups for r in group) for groups in grouped]
    intervals = [grouped_interval(groups) for groups in grouped]
    # Of two alternatives, one may have waited and the other not.
    ends = [
        widened(ratio, interval, by=waiting * ratio)
        for ratio, interval in zip(ratios, intervals, strict=True)
    ]
    ends[0] = (1.0, 1.0)  # the reference's, by definition
    return PairedTiming(
        latencies_s=tuple(statistics.median(column) for column in samples),
        ratios=tuple(ratios),
        ratio_lows=tuple(low for low, _ in ends),
        ratio_highs=tuple(high for _, high in ends),
        rounds=len(samples[0]),
        windows=windows,
        disturbed_windows=windows - calm,
        converged=False,
        quantiles_s=tuple(_quantiles(column) for column in samples),
        samples_s=tuple(tuple(column[:: -(-len(column) // _KEPT)]) for column in samples),
        waiting=waiting,
    )


def _of_any_process(timing: PairedTiming, policy: TimingPolicy) -> PairedTiming:
    """The same with intervals for whatever process measures it next."""
    found = zip(timing.ratios, timing.ratio_lows, timing.ratio_highs, strict=True)
    ends = [widened(r, (low, high), by=NORMAL * policy.process_sd * r) for r, low, high in found]
    ends[0] = (1.0, 1.0)
    return dataclasses.replace(
        timing,
        ratio_lows=tuple(low for low, _ in ends),
        ratio_highs=tuple(high for _, high in ends),
    )


def pooled_timing(timings: Sequence[PairedTiming]) -> PairedTiming:
    """What several processes found of the same alternatives, each with its own errors.

    Latencies are medians of the processes'; quantiles and samples are those of the narrowest.
    """
    if len(timings) == 1:
        return timings[0]
    best = min(timings, key=lambda timing: timing.half_width)
    found = [(1.0, 0.0)]
    for i in range(1, len(best.ratios)):
        halves = [(t.ratio_highs[i] - t.ratio_lows[i]) / 2 for t in timings]
        found.append(pooled([t.ratios[i] for t in timings], [max(h, 1e-9) for h in halves]))
    ends = [widened(mean, (mean, mean), by=half) for mean, half in found]
    rounds = sum(t.rounds for t in timings)
    return dataclasses.replace(
        best,
        latencies_s=tuple(
            statistics.median(column)
            for column in zip(*(t.latencies_s for t in timings), strict=True)
        ),
        ratios=tuple(mean for mean, _ in found),
        ratio_lows=tuple(low for low, _ in ends),
        ratio_highs=tuple(high for _, high in ends),
        rounds=rounds,
        windows=sum(t.windows for t in timings),
        disturbed_windows=sum(t.disturbed_windows for t in timings),
        converged=best.converged,
        waiting=sum(t.waiting * t.rounds for t in timings) / rounds,
    )


def _ratios(window: _Window, alternative: int) -> list[float]:
    pairs = zip(window.samples[alternative], window.samples[0], strict=True)
    return [seconds / reference_s for seconds, reference_s in pairs]


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
    waited_s: Callable[[], float] = lambda: 0.0,
) -> PairedTiming:
    """Time `runners` against the first of them until the policy is satisfied.

    `progress` hears after every window which fraction of the time cap is used. `slowed` says why
    the device ran below its clocks, if it did: the window is then as disturbed as by a neighbour.
    `waited_s` is a count of the seconds for which this process had to wait for cores.

    Disturbed windows are left out of the result and counted; the time cap bounds how often they
    are redone, and a result that stopped at the cap says so (`converged` False). Where too few were
    calm by then, those that waited least make the result, and its intervals say how much.

    Raises:
        MeasurementError: the device was slowed in every window.
    """
    for _ in range(policy.warmup_rounds):
        for runner in runners:
            runner()
    calls = [_seconds(runner, 1, clock=clock) for runner in runners]
    loops = [max(1, math.ceil(policy.min_call_s / max(t, 1e-7))) for t in calls]
    round_s = sum(loop * call for loop, call in zip(loops, calls, strict=True))
    fitting = int(policy.window_seconds / max(round_s, policy.min_call_s))
    rounds = max(1, min(policy.rounds_per_window, fitting))
    enough = policy.min_windows * policy.rounds_per_window / rounds
    deadline = clock() + policy.max_seconds
    windows: list[_Window] = []
    done = 0
    while True:
        numbers = range(done * rounds, (done + 1) * rounds)
        window = _time_window(runners, loops, rounds=numbers, clock=clock, waited_s=waited_s)
        done += 1
        reason = slowed()
        if reason is None:
            windows.append(window)
        calm = _calm(windows, policy)
        left = deadline - clock()
        progress(min(1.0, 1.0 - left / policy.max_seconds))
        late = left <= 0
        if late and not windows:
            raise MeasurementError(f"the device was slowed all the time: {reason}")
        if len(calm) >= policy.min_windows:
            result = _summarise(calm, windows=done, calm=len(calm))
            if len(calm) >= enough and result.half_width <= policy.target_relative_ci:
                return dataclasses.replace(_of_any_process(result, policy), converged=True)
        elif late:
            used = _least_disturbed(windows, calm, count=_FEWEST)
            result = _summarise(used, windows=done, calm=len(calm))
        if late:
            return _of_any_process(result, policy)
