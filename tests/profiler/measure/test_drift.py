"""A database that still holds is told from one that does not."""

import dataclasses
import math

import pytest

from autotune.core.errors import MeasurementError
from autotune.profiler.database.audit import find_problems
from autotune.profiler.measure.drift import choose_anchors, measure_drift
from autotune.profiler.measure.tasks import Outcome
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy
from tests.profiler.points import FINGERPRINT, point

POLICY = TimingPolicy(max_seconds=0.1)
ROWS = [point(0), *(point(rank, ratio=rank / 500, ratio_low=rank / 510, ratio_high=rank / 490)
                    for rank in range(16, 480, 8))]  # fmt: skip


class Replay:
    """Answers with what was recorded, its ratios and its pace changed."""

    def __init__(self, ratio=1.0, pace=1.0, fails=()):
        self.ratio, self.pace, self.fails = ratio, pace, fails

    def run(self, tasks):
        stored = {row.rank: row for row in ROWS}
        for index, task in enumerate(tasks):
            row = stored[task.subjects[1].layer.rank]
            if index in self.fails:
                yield Outcome(index=index, error="TimeoutError: no result")
                continue
            ratio = row.ratio * (self.ratio if index % 2 else 1.0)
            yield Outcome(
                index=index,
                timing=PairedTiming(
                    latencies_s=(2e-3, row.latency_s * self.pace), ratios=(1.0, ratio),
                    ratio_lows=(1.0, ratio * 0.99), ratio_highs=(1.0, ratio * 1.01), rounds=9,
                    windows=3, disturbed_windows=0, converged=True,
                ),
            )  # fmt: skip


def test_anchors_are_spread_over_the_sizes():
    chosen = choose_anchors(ROWS)
    assert len(chosen) == len({row.rank for row in chosen}) == 20
    assert (chosen[0].rank, chosen[-1].rank) == (16, 472)
    assert choose_anchors(ROWS[:5]) == ROWS[1:5]


def test_what_comes_back_as_stored_is_valid():
    drift = measure_drift(ROWS, Replay(), POLICY)
    assert drift.check("now").valid
    assert (drift.ratio_change, drift.moved, len(drift.anchors)) == (0.0, 0, 20)


def test_a_slower_machine_is_told_but_ratios_still_hold():
    drift = measure_drift(ROWS, Replay(pace=1.5), POLICY)
    assert drift.check("now").valid
    assert drift.latency_change == pytest.approx(math.log(1.5))


def test_ratios_that_moved_make_it_stale():
    drift = measure_drift(ROWS, Replay(ratio=1.2), POLICY)
    assert not drift.check("now").valid
    assert drift.moved == 10
    assert drift.anchors[1].ratio_change == pytest.approx(math.log(1.2))
    assert measure_drift(ROWS, Replay(ratio=1.02), POLICY).check("now").valid  # in both intervals


def test_an_anchor_that_fails_is_no_proof_of_validity():
    drift = measure_drift(ROWS, Replay(fails=(3,)), POLICY)
    assert not drift.check("now").valid
    assert drift.failures == ("TimeoutError: no result",)
    with pytest.raises(MeasurementError, match="no result"):
        measure_drift(ROWS, Replay(fails=range(20)), POLICY)


def test_nothing_measured_cannot_drift():
    with pytest.raises(MeasurementError, match="no pair"):
        measure_drift([point(0), dataclasses.replace(point(16, error="x"))], Replay(), POLICY)


def test_the_last_check_is_kept(database):
    mine, other = (dataclasses.replace(FINGERPRINT, threads=threads) for threads in (1, 2))
    for each in (mine, other):
        database.start_run(each, "test")
    assert database.last_checks() == {}
    old = measure_drift(ROWS, Replay(ratio=1.2), POLICY).check("2026-01-01T00:00:00+00:00")
    new = measure_drift(ROWS, Replay(), POLICY).check("2026-02-01T00:00:00+00:00")
    for check in (new, old, new):  # in any order, and twice
        database.add_check(mine, check)
    assert database.last_checks() == {mine.id: new}
    assert (old.verdict, new.verdict) == ("STALE", "VALID")
    assert find_problems(database) == []
