"""Measure what is missing and what did not settle, and commit it as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from autotune.core.forms import Form, low_rank
from autotune.core.layers import LayerShape
from autotune.core.progress import Advance, no_progress
from autotune.core.types import Fingerprint
from autotune.devices.alignment import aligned_ranks, coarse_grid
from autotune.devices.detect import PresentDevice
from autotune.devices.specs import DeviceSpec
from autotune.profiler.backends.base import Backend
from autotune.profiler.database.latency import LatencyDatabase, timestamp
from autotune.profiler.database.records import Detail, FailedMeasurement, Measurement, Row
from autotune.profiler.measure.intervals import NORMAL
from autotune.profiler.measure.tasks import Outcome, TaskRunner, TimingTask, layer_task
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy

FORMS_PER_TASK = 4
_ATTEMPTS = 3


def fingerprint_of(
    device: PresentDevice, backend: Backend, *, dtype: str, threads: int
) -> Fingerprint:
    """The fingerprint under which this machine's measurements are kept."""
    return Fingerprint(
        device=device.spec.name,
        device_name=device.reported_name,
        backend=backend.name,
        dtype=dtype,
        # A GPU's latencies do not depend on the processor's threads.
        threads=threads if device.spec.kind == "cpu" else 1,
        versions=backend.versions(),
        settings=backend.settings(),
    )


def plan_forms(
    spec: DeviceSpec, shape: LayerShape, *, points: int = Backend.ranks_per_shape
) -> list[Form]:
    """Forms to measure of one layer besides the dense one: `points` of its aligned ranks."""
    ranks = aligned_ranks(
        spec, in_features=shape.in_features, out_features=shape.out_features, dtype=shape.dtype
    )
    return [low_rank(rank) for rank in coarse_grid(ranks, points)]


def missing_points(
    database: LatencyDatabase, fingerprint: Fingerprint, *, wanted: Iterable[LayerShape]
) -> list[LayerShape]:
    """Those of `wanted` that have no successful measurement yet."""
    have = {row.shape for row in database.measurements(fingerprint.id)}
    return _sorted(set(wanted) - have)


def unsettled_points(
    database: LatencyDatabase, fingerprint: Fingerprint, *, wanted: Iterable[LayerShape]
) -> list[LayerShape]:
    """Those of `wanted` that were measured, but whose timing did not settle."""
    rows = database.measurements(fingerprint.id)
    return _sorted(set(wanted) & {row.shape for row in rows if not row.converged})


def _sorted(shapes: Iterable[LayerShape]) -> list[LayerShape]:
    return sorted(shapes, key=lambda s: (s.dense.flops, s.form))


def measure_points(
    database: LatencyDatabase,
    fingerprint: Fingerprint,
    *,
    points: Sequence[LayerShape],
    runner: TaskRunner,
    policy: TimingPolicy | None = None,
    progress: Advance = no_progress,
) -> list[FailedMeasurement]:
    """Time `points` (dense layers come along as references) and store each result at once.

    Points that are known are measured again; `LatencyDatabase.add` says which timing stays. Returns
    the failed ones; they are rows in the database too.
    """
    if not points:
        return []
    policy = policy or TimingPolicy()
    tasks = _tasks(points, policy)
    run_id = database.start_run(fingerprint, f"{len(points)} points")
    asked = set(points)
    failures: list[FailedMeasurement] = []
    done = 0
    progress(0, len(points))
    for task, outcome in _outcomes(runner, tasks):
        rows = _rows(task, outcome)
        details = _details(rows, outcome.timing)
        database.add(run_id, rows, details=details, clocks=outcome.clocks, remeasured=asked)
        failures += [row for row in rows if isinstance(row, FailedMeasurement)]
        done += len(rows) - 1
        progress(min(done, len(points)), len(points))
    return failures


def _outcomes(
    runner: TaskRunner, tasks: Sequence[TimingTask]
) -> Iterator[tuple[TimingTask, Outcome]]:
    """Every task with its outcome; those whose process died are tried again, twice at most.

    A process may be killed from outside; one that its task kills dies again.
    """
    for attempt in range(_ATTEMPTS):
        died = []
        for outcome in runner.run(tasks):
            if outcome.died and attempt + 1 < _ATTEMPTS:
                died.append(tasks[outcome.index])
            else:
                yield tasks[outcome.index], outcome
        if not died:
            return
        tasks = died


def _tasks(points: Sequence[LayerShape], policy: TimingPolicy) -> list[TimingTask]:
    forms: dict[LayerShape, list[Form]] = {}
    for point in points:
        forms.setdefault(point.dense, [])
        if not point.form.is_unchanged:
            forms[point.dense].append(point.form)
    tasks = []
    for dense, values in forms.items():
        groups = [
            tuple(values[i : i + FORMS_PER_TASK]) for i in range(0, len(values), FORMS_PER_TASK)
        ]
        tasks += [layer_task(dense, group, policy=policy) for group in groups or [()]]
    return tasks


def _details(rows: Sequence[Row], timing: PairedTiming | None) -> dict[LayerShape, Detail]:
    if timing is None:
        return {}
    columns = zip(timing.quantiles_s, timing.samples_s, strict=True)
    return {
        row.shape: Detail(quantiles_s=quantiles, samples_s=samples)
        for row, (quantiles, samples) in zip(rows, columns, strict=True)
    }


def _rows(task: TimingTask, outcome: Outcome) -> list[Row]:
    shapes = [subject.layer for subject in task.subjects if subject.layer is not None]
    assert len(shapes) == len(task.subjects), "a task of layers"
    now, timing = timestamp(), outcome.timing
    if timing is None:
        error = str(outcome.error)
        return [FailedMeasurement(shape=s, error=error, measured_at=now) for s in shapes]
    return [
        Measurement(
            shape=shape,
            latency_s=timing.latencies_s[i],
            dense_latency_s=timing.latencies_s[0],
            ratio=timing.ratios[i],
            ratio_low=timing.ratio_lows[i],
            ratio_high=timing.ratio_highs[i],
            rounds=timing.rounds,
            windows=timing.windows,
            disturbed_windows=timing.disturbed_windows,
            converged=_has_settled(timing, i, policy=task.policy),
            measured_at=now,
        )
        for i, shape in enumerate(shapes)
    ]


def _has_settled(timing: PairedTiming, index: int, *, policy: TimingPolicy) -> bool:
    """Whether one alternative is as sure as the policy asks for.

    A timing converges when all of them are; one that a neighbour hit takes nothing from the rest.
    """
    if timing.converged:
        return True
    calm = timing.windows - timing.disturbed_windows
    width = timing.ratio_highs[index] - timing.ratio_lows[index]
    half_width = width / (2 * timing.ratios[index])
    # Intervals hold for any process; whether this one measured enough is asked without that.
    enough = math.hypot(policy.target_relative_ci, NORMAL * policy.process_sd)
    return calm >= policy.min_windows and half_width <= enough
