"""Whether a database still holds: some of its points timed again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.core.errors import MeasurementError
from autotune.core.progress import Advance, no_progress
from autotune.profiler.database.records import DriftCheck, Measurement
from autotune.profiler.measure.tasks import TaskRunner, layer_task
from autotune.profiler.measure.timing import TimingPolicy

ANCHORS = 20
# What a ratio may move by before its table misleads: budgets are met within a few percent.
_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One stored point and the same timed now; ratios are latency recovery."""

    stored: Measurement
    ratio: float
    ratio_low: float
    ratio_high: float
    latency_s: float

    @property
    def ratio_change(self) -> float:
        """log(now / stored); 0 where the intervals overlap, as then nothing is known to change."""
        if self.ratio_low <= self.stored.ratio_high and self.stored.ratio_low <= self.ratio_high:
            return 0.0
        return math.log(self.ratio / self.stored.ratio)

    @property
    def latency_change(self) -> float:
        """The natural logarithm of seconds now over seconds stored."""
        return math.log(self.latency_s / self.stored.latency_s)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What timing the anchors again showed."""

    anchors: tuple[Anchor, ...]
    failures: tuple[str, ...] = ()

    @property
    def ratio_change(self) -> float:
        """Median of |log(ratio now / stored)|: what plans depend on."""
        return statistics.median(abs(anchor.ratio_change) for anchor in self.anchors)

    @property
    def latency_change(self) -> float:
        """Median of log(seconds now / stored): the machine's pace."""
        return statistics.median(anchor.latency_change for anchor in self.anchors)

    @property
    def moved(self) -> int:
        """Anchors whose ratio moved by more than the tolerance."""
        return sum(abs(anchor.ratio_change) > _TOLERANCE for anchor in self.anchors)

    def check(self, checked_at: str) -> DriftCheck:
        """The record that the database keeps of it."""
        return DriftCheck(
            checked_at=checked_at,
            anchors=len(self.anchors),
            moved=self.moved,
            failed=len(self.failures),
            ratio_change=self.ratio_change,
            latency_change=self.latency_change,
        )


def choose_anchors(rows: Sequence[Measurement], count: int = ANCHORS) -> list[Measurement]:
    """`count` measured pairs, spread evenly from the smallest to the largest.

    They are pairs that settled where there are any: a wide interval holds whatever has changed.
    """
    measured = [row for row in rows if not row.shape.is_dense]
    pairs = sorted(
        [row for row in measured if row.converged] or measured,
        key=lambda row: (row.shape.flops, row.shape.form, row.shape.in_features),
    )
    if len(pairs) <= count:
        return pairs
    return [pairs[round(i * (len(pairs) - 1) / (count - 1))] for i in range(count)]


def measure_drift(
    rows: Sequence[Measurement],
    runner: TaskRunner,
    *,
    policy: TimingPolicy,
    count: int = ANCHORS,
    progress: Advance = no_progress,
) -> Drift:
    """Time anchors of one fingerprint's `rows` again. Nothing is stored.

    Raises:
        MeasurementError: there is no measured pair to time again.
    """
    chosen = choose_anchors(rows, count)
    if not chosen:
        raise MeasurementError("no pair was measured yet, so nothing can have drifted")
    tasks = [layer_task(row.shape.dense, (row.shape.form,), policy=policy) for row in chosen]
    anchors, failures = [], []
    for outcome in runner.run(tasks):
        progress(outcome.index + 1, len(tasks))
        timing = outcome.timing
        if timing is None:
            failures.append(str(outcome.error))
            continue
        anchors.append(
            Anchor(
                stored=chosen[outcome.index],
                ratio=timing.ratios[1],
                ratio_low=timing.ratio_lows[1],
                ratio_high=timing.ratio_highs[1],
                latency_s=timing.latencies_s[1],
            )
        )
    if not anchors:
        raise MeasurementError(f"no anchor could be timed: {failures[0]}")
    return Drift(anchors=tuple(anchors), failures=tuple(failures))
