"""A database that still holds is told from one that does not."""

import dataclasses
import math

import pytest

from autotune.core.errors import MeasurementError
from autotune.core.layers import LayerShape
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.drift import choose_anchors, measure_drift
from autotune.profiler.measure.points import measure_points
from autotune.profiler.measure.timing import TimingPolicy
from autotune.testing.disturbance import Disturbance, Fault, SlowSpell
from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner
from tests.forms import form_of
from tests.profiler.points import FINGERPRINT, point

POLICY = TimingPolicy(max_seconds=0.5)
AS_MEASURED = simulated_hardware("cpu-like", cliff_factor=1.0)
# Ranks that are no multiple of 16 have become slower: every second one of ROWS' anchors.
CHANGED = simulated_hardware("cpu-like", cliff_factor=1.5)


def pair(rank):
    return LayerShape(tokens=128, in_features=384, out_features=384, form=form_of(rank))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The dense layer, and its pairs at 58 ranks, as measured once."""
    runner = SimulatedRunner(AS_MEASURED)
    with LatencyDatabase(tmp_path_factory.mktemp("db") / "latency.sqlite") as database:
        points = [pair(rank) for rank in range(16, 480, 8)]
        assert (
            measure_points(database, FINGERPRINT, points=points, runner=runner, policy=POLICY) == []
        )
        return database.measurements(FINGERPRINT.id)


def drift_of(rows, hardware=AS_MEASURED, *, spells=(), faults=()):
    runner = SimulatedRunner(hardware, Disturbance(spells=spells, faults=faults), seed=1)
    return measure_drift(rows, runner, policy=POLICY)


def test_anchors_are_spread_over_the_sizes(rows):
    chosen = choose_anchors(rows)
    assert len(chosen) == len({row.shape.rank for row in chosen}) == 20
    assert (chosen[0].shape.rank, chosen[-1].shape.rank) == (16, 472)
    assert choose_anchors(rows[:5]) == rows[1:5]


def test_what_comes_back_as_stored_is_valid(rows):
    drift = drift_of(rows)
    assert drift.check("now").valid
    assert (drift.ratio_change, drift.moved, len(drift.anchors)) == (0.0, 0, 20)
    assert drift.latency_change == pytest.approx(0.0, abs=0.01)


def test_a_slower_machine_is_told_but_ratios_still_hold(rows):
    drift = drift_of(rows, spells=(SlowSpell(factor=1.5),))
    assert drift.check("now").valid
    assert drift.latency_change == pytest.approx(math.log(1.5), abs=0.01)


def test_ratios_that_moved_make_it_stale(rows):
    drift = drift_of(rows, CHANGED)
    assert not drift.check("now").valid
    assert drift.moved == 10
    now, stored = (
        hardware.layer_latency_s(pair(40)) / hardware.layer_latency_s(pair(40).dense)
        for hardware in (CHANGED, AS_MEASURED)
    )
    assert now > 1.1 * stored
    assert drift.anchors[1].ratio_change == pytest.approx(math.log(now / stored), abs=0.02)


def test_ratios_within_both_intervals_have_not_moved(rows):
    wide = [
        dataclasses.replace(row, ratio_low=row.ratio * 0.7, ratio_high=row.ratio * 1.3)
        for row in rows
    ]
    drift = drift_of(wide, CHANGED)
    assert drift.check("now").valid
    assert drift.moved == 0


def test_an_anchor_that_fails_is_no_proof_of_validity(rows):
    drift = drift_of(rows, faults=(Fault(kind="hang", task=3),))
    assert not drift.check("now").valid
    assert drift.failures == ("TimeoutError: no result within 61 s",)
    with pytest.raises(MeasurementError, match="no result"):
        drift_of(rows, faults=[Fault(kind="hang", task=task) for task in range(20)])


def test_nothing_measured_cannot_drift():
    with pytest.raises(MeasurementError, match="no pair"):
        drift_of([point(0)])


def test_the_last_check_is_kept(database, rows):
    mine, other = (dataclasses.replace(FINGERPRINT, threads=threads) for threads in (1, 2))
    for each in (mine, other):
        database.start_run(each, "test")
    assert database.last_checks() == {}
    old = drift_of(rows, CHANGED).check("2026-01-01T00:00:00+00:00")
    new = drift_of(rows).check("2026-02-01T00:00:00+00:00")
    for check in (new, old, new):  # in any order, and twice
        database.add_check(mine, check)
    assert database.last_checks() == {mine.id: new}
    assert (old.verdict, new.verdict) == ("STALE", "VALID")
    assert find_problems(database) == []
