"""How networks and layers are timed: policies, and several processes for one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from autotune.core.errors import MeasurementError
from autotune.core.progress import Advance
from autotune.profiler.measure.tasks import Subject, TaskRunner, TimingTask
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy, pooled_timing

# A network is timed by so many processes at least, which share the time of one measurement, and by
# so many at most while the result is wide.
_PROCESSES = 2
_MOST_PROCESSES = 6
_WIDE = 0.02
# How far the ratios of two processes on a calm machine lie apart (benchmarks/results/
# 2026-11-26-busy.md), by device kind; a GPU's memory is placed the same way every time.
_PROCESS_SD = {"cpu": 0.003, "cuda": 0.001}


def network_policy(kind: str, measure_seconds: float, *, final: bool = False) -> TimingPolicy:
    """How one process times a whole network; the figure that is handed out gets twice the time.

    `kind` is that of the device, `measure_seconds` the limit of a measurement.
    """
    return TimingPolicy(
        rounds_per_window=3,
        min_windows=6,
        max_seconds=measure_seconds * (2.0 if final else 1.0) / _PROCESSES,
        target_relative_ci=0.004,
        process_sd=_PROCESS_SD[kind],
    )


def layer_policy(kind: str, measure_seconds: float) -> TimingPolicy:
    """How a layer and a few of its ranks are timed: in a tenth of a network's time."""
    return TimingPolicy(max_seconds=measure_seconds / 10, process_sd=_PROCESS_SD[kind])


def network_subject(build: Path, inputs: Path) -> Subject:
    """A whole model as something to time."""
    return Subject(network=str(build), inputs=str(inputs))


def time_subjects(
    runner: TaskRunner, subjects: Sequence[Subject], *, policy: TimingPolicy, advance: Advance
) -> PairedTiming:
    """Time `subjects` in turn, in several fresh processes; what they found together.

    Processes differ, and a neighbour that keeps the machine busy for a whole measurement disturbs
    every window of it alike, so one process never suffices, and there are more of them while the
    interval is wide. A process that was killed counts as one, and is no reason to lose what came
    before.

    Raises:
        MeasurementError: the backend failed or hung, or every process died.
    """
    task = TimingTask(subjects=tuple(subjects), policy=policy)
    timings: list[PairedTiming] = []
    error: str | None = None
    for number in range(_MOST_PROCESSES):
        (outcome,) = runner.run([task], _share(advance, number))
        error = outcome.error
        if outcome.timing is not None:
            timings.append(outcome.timing)
        elif not outcome.died:
            raise MeasurementError(f"the measurement failed: {error}")
        if len(timings) >= _PROCESSES and pooled_timing(timings).half_width <= _WIDE:
            break
    if not timings:
        raise MeasurementError(f"the measurement failed: {error}")
    return pooled_timing(timings)


def _share(advance: Advance, number: int) -> Callable[[float], None]:
    """Progress of process `number`, of which the first two are the usual whole."""
    return lambda used: advance(round(100 * min(1.0, (number + used) / _PROCESSES)), 100)
