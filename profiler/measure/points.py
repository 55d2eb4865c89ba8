"""Measure what is missing and what did not settle, and commit it as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from autotune.core.forms import NATIVE, PLAIN, Form
from autotune.core.layers import LayerShape
from autotune.core.progress import Advance, no_progress
from autotune.core.types import Fingerprint
from autotune.devices.alignment import coarse_grid, saving_forms
from autotune.devices.detect import PresentDevice
from autotune.devices.health import ClockReading
from autotune.devices.specs import DeviceSpec
from autotune.profiler.backends.base import Backend
from autotune.profiler.database.records import (
    Detail,
    FailedMeasurement,
    Measurement,
    Row,
    timestamp,
)
from autotune.profiler.measure.intervals import NORMAL
from autotune.profiler.measure.looks import Looks, together
from autotune.profiler.measure.tasks import Outcome, TaskRunner, TimingTask, layer_task
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy

if TYPE_CHECKING:
    from autotune.profiler.database.latency import LatencyDatabase

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
    spec: DeviceSpec,
    shape: LayerShape,
    *,
    points: int = Backend.ranks_per_shape,
    structures: Sequence[str] = (PLAIN,),
    precisions: Sequence[str] = (NATIVE,),
) -> list[Form]:
    """Forms to measure of one layer besides the dense one: `points` of its aligned ranks.

    Of pivoted pairs and of those in another precision a sixth as many: the others are measured
    where a plan would use them.
    """
    offered = saving_forms(
        spec.rank_multiple(shape.dtype),
        in_features=shape.in_features,
        out_features=shape.out_features,
        structures=structures,
        precisions=precisions,
    )
    dense = [form for form in offered if form.is_dense]
    staircases: dict[str, list[Form]] = {}
    for form in offered:
        if not form.is_dense:
            staircases.setdefault(form.suffix, []).append(form)
    fewer = max(3, points // 6)
    for suffix, forms in staircases.items():
        dense += coarse_grid(forms, fewer if suffix else points)
    return dense


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
    looks: Looks | None = None,
    progress: Advance = no_progress,
) -> list[FailedMeasurement]:
    """Time `points` (dense layers come along as references) and store each result at once.

    With several `looks`, all layers have one before the next begins; `policy` is for all looks
    together. Points that are known are measured again; `LatencyDatabase.add` says which timing
    stays. Returns the failed ones; they are rows in the database too.
    """
    if not points:
        return []
    looks = looks or Looks()
    tasks = _tasks(points, looks.policy(policy or TimingPolicy()))
    run_id = database.start_run(fingerprint, f"{len(points)} points")
    run = _Run(database, run_id, tasks=tasks, looks=looks, asked=frozenset(points))
    done, total = 0, looks.count * sum(len(task.subjects) - 1 for task in tasks)
    progress(0, len(points))
    for number in range(looks.count):
        left = [index for index in range(len(tasks)) if number == 0 or index in run.seen]
        for index, outcome in _outcomes(runner, tasks, chosen=left):
            run.keep(index, outcome)
            done += len(tasks[index].subjects) - 1
            progress(min(len(points), done * len(points) // max(total, 1)), len(points))
    run.finish()
    progress(len(points), len(points))
    return [row for index in sorted(run.failed) for row in run.failed[index]]


class _Run:
    """One run of a database: the looks at every task so far, by its index, and their rows."""

    def __init__(
        self,
        database: LatencyDatabase,
        run_id: str,
        *,
        tasks: Sequence[TimingTask],
        looks: Looks,
        asked: frozenset[LayerShape],
    ) -> None:
        self._database, self._run_id = database, run_id
        self._tasks, self._looks, self._asked = tasks, looks, asked
        self.seen: dict[int, list[PairedTiming]] = {}
        self.failed: dict[int, list[FailedMeasurement]] = {}

    def keep(self, index: int, outcome: Outcome) -> None:
        """Store one more look at a task; a failed one only where it is the first."""
        if outcome.timing is not None:
            self.seen.setdefault(index, []).append(outcome.timing)
            self._store([index], outcome.clocks)
        elif index not in self.seen:
            self.failed[index] = _failures(self._tasks[index], str(outcome.error))
            self._add(self.failed[index], clocks=outcome.clocks)

    def finish(self) -> None:
        """Store all rows anew: how far looks lie apart is known now."""
        if self._looks.count > 1:
            self._store(sorted(self.seen))

    def _store(self, indices: Sequence[int], clocks: Sequence[ClockReading] = ()) -> None:
        rows: dict[LayerShape, Measurement] = {}
        details: dict[LayerShape, Detail] = {}
        timings = together([self.seen[index] for index in indices], self._looks)
        for index, timing in zip(indices, timings, strict=True):
            found = _rows(self._tasks[index], timing, settled=self._settled(index))
            # A dense layer is the reference of several tasks.
            better = [r for r in found if r.shape not in rows or r.converged]
            rows |= {row.shape: row for row in better}
            details |= _details(found, timing, of=better)
        self._add(list(rows.values()), details=details, clocks=clocks)

    def _add(
        self,
        rows: Sequence[Row],
        *,
        details: Mapping[LayerShape, Detail] | None = None,
        clocks: Sequence[ClockReading] = (),
    ) -> None:
        self._database.add(
            self._run_id, rows, details=details, clocks=clocks, remeasured=self._asked
        )

    def _settled(self, index: int) -> list[bool]:
        """Whether every look at each alternative is as sure as its policy asks for."""
        seen, policy = self.seen[index], self._tasks[index].policy
        return [
            len(seen) == self._looks.count
            and all(_has_settled(timing, i, policy=policy) for timing in seen)
            for i in range(len(self._tasks[index].subjects))
        ]


def _outcomes(
    runner: TaskRunner, tasks: Sequence[TimingTask], *, chosen: Sequence[int]
) -> Iterator[tuple[int, Outcome]]:
    """The `chosen` tasks' indices and outcomes; those whose process died are tried again, twice.

    A process may be killed from outside; one that its task kills dies again.
    """
    for attempt in range(_ATTEMPTS):
        died = []
        for outcome in runner.run([tasks[index] for index in chosen]):
            index = chosen[outcome.index]
            if outcome.died and attempt + 1 < _ATTEMPTS:
                died.append(index)
            else:
                yield index, outcome
        if not died:
            return
        chosen = died


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


def _details(
    rows: Sequence[Measurement], timing: PairedTiming, *, of: Sequence[Measurement]
) -> dict[LayerShape, Detail]:
    """Of those of a timing's `rows` that are kept."""
    columns = zip(timing.quantiles_s, timing.samples_s, strict=True)
    return {
        row.shape: Detail(quantiles_s=quantiles, samples_s=samples)
        for row, (quantiles, samples) in zip(rows, columns, strict=True)
        if row in of
    }


def _shapes(task: TimingTask) -> list[LayerShape]:
    found = [subject.layer for subject in task.subjects if subject.layer is not None]
    assert len(found) == len(task.subjects), "a task of layers"
    return found


def _failures(task: TimingTask, error: str) -> list[FailedMeasurement]:
    now = timestamp()
    return [FailedMeasurement(shape=s, error=error, measured_at=now) for s in _shapes(task)]


def _rows(task: TimingTask, timing: PairedTiming, *, settled: Sequence[bool]) -> list[Measurement]:
    now = timestamp()
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
            converged=settled[i],
            measured_at=now,
            energy_j=timing.energies_j[i] if timing.energies_j else None,
            power_w=timing.powers_w[i] if timing.powers_w else None,
        )
        for i, shape in enumerate(_shapes(task))
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
