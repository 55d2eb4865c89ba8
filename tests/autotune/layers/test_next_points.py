"""`profile --next`: so many points more, of layers that are not known, where ratios are unsure."""

import pytest

from autotune.devices.roofline import Roofline
from autotune.layers.profile import profile_next
from autotune.predictor.layers.measuring_plan import pairs_of, standard_pool
from autotune.predictor.layers.recovery import RecoveryProcess
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.timing import TimingPolicy
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedMachine

POLICY = TimingPolicy(max_seconds=0.2)


@pytest.fixture
def machine(tmp_path):
    return SimulatedMachine(simulated_hardware("h200-like"), tmp_path / "latency.sqlite", seed=1)


@pytest.fixture
def database(machine, tmp_path):
    with LatencyDatabase(tmp_path / "latency.sqlite") as store:
        yield store


def known(machine, database):
    return {row.shape for row in database.measurements(machine.fingerprint.id)}


def unsure(machine, database, shapes):
    """The mean deviation that the recovery process still has of ratios."""
    rows = database.measurements(machine.fingerprint.id)
    pairs = [row for row in rows if row.shape.rank]
    process = RecoveryProcess(
        Roofline.of(machine.spec, machine.threads),
        [row.shape for row in pairs],
        ratios=[row.ratio for row in pairs],
    )
    return process.deviation_given(shapes, []).mean()


def test_so_many_points_are_measured_and_each_time_others(machine, database):
    first = profile_next(machine, database, count=25, policy=POLICY)
    before = known(machine, database)
    assert (first.wanted, first.measured) == (25, 25)
    second = profile_next(machine, database, count=10, policy=POLICY)
    assert second.measured == 10
    assert before < known(machine, database)
    dense = [shape for shape in known(machine, database) if shape.is_dense]
    pool = standard_pool(machine.spec, machine.dtype)
    assert len({shape.tokens for shape in dense}) > 2 and set(dense) <= set(pool)


def test_points_are_where_ratios_are_unsure(machine, database):
    profile_next(machine, database, count=40, policy=POLICY)
    pool = standard_pool(machine.spec, machine.dtype)
    asked = [pair for dense in pool[::7] for pair in pairs_of(dense, machine.spec)]
    before = unsure(machine, database, asked)
    rows = known(machine, database)
    profile_next(machine, database, count=16, policy=POLICY)
    fresh = [s for s in known(machine, database) - rows if s.rank]
    assert fresh
    assert unsure(machine, database, asked) < before


def test_a_pool_that_is_known_ends_it(machine, database, monkeypatch):
    pool = standard_pool(machine.spec, machine.dtype)[:3]
    monkeypatch.setattr("autotune.layers.profile.standard_pool", lambda *_: pool)
    found = profile_next(machine, database, count=500, policy=POLICY)
    assert 3 <= found.wanted < 500
    again = profile_next(machine, database, count=500, policy=POLICY)
    assert again.wanted == 0
