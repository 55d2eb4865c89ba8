"""Measure points until they settle, in a bounded time, and count how many did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from autotune.core.layers import LayerShape
from autotune.core.progress import Advance
from autotune.core.types import Fingerprint
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import FailedMeasurement, Measurement
from autotune.profiler.measure.looks import Looks
from autotune.profiler.measure.points import measure_points, missing_points, unsettled_points
from autotune.profiler.measure.tasks import TaskRunner
from autotune.profiler.measure.timing import TimingPolicy

# How long a program waits for another that measures the same points.
_RESERVE_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Settled:
    """How many points settled, of those that were measured."""

    settled: int
    total: int

    @staticmethod
    def of(rows: Iterable[Measurement], wanted: Collection[LayerShape] | None = None) -> Settled:
        """Counted among the `wanted` points, or all."""
        found = [row.converged for row in rows if wanted is None or row.shape in wanted]
        return Settled(settled=sum(found), total=len(found))


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The points that were measured, each counted once, and which of them failed at first."""

    measured: int
    failed: tuple[FailedMeasurement, ...]


def measure_wanted(
    database: LatencyDatabase,
    fingerprint: Fingerprint,
    *,
    wanted: Collection[LayerShape],
    doubtful: Collection[LayerShape],
    runner: TaskRunner,
    policy: TimingPolicy,
    looks: Looks | None = None,
    stage: Callable[[bool], AbstractContextManager[Advance]],
) -> Pass:
    """Measure what is missing of `wanted`, then the `doubtful` ones, then what has not settled.

    A neighbour may be gone by now, and a better timing replaces a worse one. What has not settled
    is measured again in passes: as long as the last one settled a point, and as many timings in all
    as the first pass took. Where that was of known points only, it is such a pass itself. A point
    that takes longer than `policy` gives it, be it undisturbed, is not repeated.

    Programs that measure under one fingerprint into one database do it one after the other, so that
    the next one finds what the one before has measured.

    `stage` opens the progress of the first pass (False) and of the repetitions (True).
    """
    if not doubtful and not missing_points(database, fingerprint, wanted=wanted):
        return Pass(measured=0, failed=())
    with database.reserve(f"measuring-{fingerprint.id}", limit_s=_RESERVE_S):
        missing = missing_points(database, fingerprint, wanted=wanted)
        known = sorted(
            set(doubtful) - set(missing), key=lambda shape: (shape.dense.flops, shape.form)
        )
        first = [*missing, *known]
        if not first:
            return Pass(measured=0, failed=())

        def measure(points: list[LayerShape], again: bool) -> list[FailedMeasurement]:
            with stage(again) as advance:
                return measure_points(
                    database,
                    fingerprint,
                    points=points,
                    runner=runner,
                    policy=policy,
                    looks=looks,
                    progress=advance,
                )

        def unsettled() -> list[LayerShape]:
            """Those that the same time may settle: it was long enough for the windows it takes."""
            rows = database.measurements(fingerprint.id)
            hurried = {row.shape for row in rows if row.windows < policy.min_windows}
            left = unsettled_points(database, fingerprint, wanted=wanted)
            return [shape for shape in left if shape not in hurried]

        before = unsettled_points(database, fingerprint, wanted=wanted)
        failed = measure(first, False)
        left, most = unsettled(), len(first)
        useful = bool(missing) or len(left) < len(before)
        while useful and left and most:
            before = left
            measure(left[:most], True)
            most -= len(left[:most])
            left = unsettled()
            useful = len(left) < len(before)
        return Pass(measured=len(first), failed=tuple(failed))
