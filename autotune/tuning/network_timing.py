"""How networks and layers are timed: policies, and the repetitions of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from autotune.core.errors import MeasurementError
from autotune.core.progress import Advance
from autotune.profiler.measure.looks import Looks
from autotune.profiler.measure.tasks import Subject, TaskRunner, TimingTask
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy, pooled_timing

# A network is prepared and timed at least so often, which share the time of one measurement, and at
# most so often while the result is wide. What is wide after the first ones needs calm windows more
# than further processes: the others last longer. Beside a neighbour that takes 0 to 2 of 2 cores,
# MiniLM's ratio had intervals of ±0.014 to 0.026 so, and of ±0.20 to 0.24 when all six were short
# and windows had three rounds (benchmarks/results/2026-11-27-busy.md).
_TIMES = 2
_MOST_TIMES = 5
_LONGER = 2
# A process takes about a second to start. Whoever asks for less than this of each takes what the
# first ones give, however wide.
_SHORT_S = 0.3
_WIDE = 0.02
_BRIEF_CI = 0.01
# How far the ratios of two processes on a calm machine lie apart, by device kind. Measured on an
# H100: 0.0003 over 16 processes; on CPUs noise hides it, and 0.003 is assumed
# (benchmarks/results/2026-11-26-process-spread.md).
_PROCESS_SD = {"cpu": 0.003, "cuda": 0.0005}
# On one thread no core waits for another, and nothing of the following was seen
# (benchmarks/results/2026-11-27-busy.md, two cores of a shared host).
# Of layers, by device kind; what a run sees itself outweighs the usual spread.
_LOOKS = {"cpu": Looks(count=2, seconds=6e-6, relative=0.01), "cuda": Looks()}
# Of each product of a network: an interval from within a spell or from between two holds the ratio
# of the other, over 130 processes in nine minutes.
_PRODUCT_SD_S = {"cpu": 12e-6, "cuda": 0.0}


def network_policy(kind: str, measure_seconds: float, *, final: bool = False) -> TimingPolicy:
    """How a whole network is timed, once prepared; what is handed out gets twice the time.

    `kind` is that of the device, `measure_seconds` the limit of a measurement.
    """
    return TimingPolicy(
        rounds_per_window=3,
        min_windows=6,
        max_seconds=measure_seconds * (2.0 if final else 1.0) / _TIMES,
        target_relative_ci=0.004,
        process_sd=_PROCESS_SD[kind],
    )


def brief_policy(kind: str, measure_seconds: float) -> TimingPolicy:
    """How a network is timed for a figure beside the others: in a quarter of the time."""
    policy = network_policy(kind, measure_seconds / 2)
    return dataclasses.replace(policy, target_relative_ci=_BRIEF_CI)


def layer_policy(kind: str, measure_seconds: float) -> TimingPolicy:
    """How a layer and a few of its ranks are timed: in a tenth of a network's time."""
    return TimingPolicy(max_seconds=measure_seconds / 10, process_sd=_PROCESS_SD[kind])


def layer_looks(kind: str, threads: int) -> Looks:
    """How often a layer is looked at in that time; `kind` is that of the device."""
    looks = _LOOKS[kind]
    return looks if threads > 1 else dataclasses.replace(looks, seconds=0.0)


def product_sd_s(kind: str, threads: int) -> float:
    """`Machine.product_sd_s` of a device of the kind."""
    return _PRODUCT_SD_S[kind] if threads > 1 else 0.0


def network_subject(build: Path, inputs: Path, *, streams: int = 1) -> Subject:
    """A whole model as something to time."""
    return Subject(network=str(build), inputs=str(inputs), streams=streams)


def time_subjects(
    runner: TaskRunner,
    subjects: Sequence[Subject],
    *,
    policy: TimingPolicy,
    advance: Advance,
    times: int | None = None,
) -> PairedTiming:
    """Time `subjects` in turn in a fresh process, prepared anew several times; all of it together.

    A network that is prepared again lies elsewhere in memory, and a neighbour that keeps the
    machine busy for a whole measurement disturbs every window of it alike: so once never suffices,
    and it is done more often while the interval is wide. A process that was killed counts as once,
    and is no reason to lose what came before. `times` is how many timings are enough, however wide
    the result is.

    Raises:
        MeasurementError: the backend failed or hung, or every process died.
    """
    once = TimingTask(subjects=tuple(subjects), policy=policy)
    longer = dataclasses.replace(policy, max_seconds=policy.max_seconds * _LONGER)
    again = dataclasses.replace(once, policy=longer)
    tasks = [once] * _TIMES + [again] * (_MOST_TIMES - _TIMES)
    timings: list[PairedTiming] = []
    error: str | None = None

    def progress(used: float) -> None:
        advance(round(100 * min(1.0, (len(timings) + used) / (times or _TIMES))), 100)

    for outcome in runner.run(tasks, progress):
        error = outcome.error
        if outcome.timing is not None:
            timings.append(outcome.timing)
        elif not outcome.died:
            raise MeasurementError(f"the measurement failed: {error}")
        if len(timings) == times:
            break
        if len(timings) >= _TIMES and _suffices(pooled_timing(timings), policy):
            break
    if not timings:
        raise MeasurementError(f"the measurement failed: {error}")
    return pooled_timing(timings)


def _suffices(timing: PairedTiming, policy: TimingPolicy) -> bool:
    """Whether nothing is gained by another process."""
    return policy.max_seconds < _SHORT_S or timing.half_width <= _WIDE
