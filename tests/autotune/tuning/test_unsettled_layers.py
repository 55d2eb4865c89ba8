"""A tuning on a disturbed machine: unsettled layers mislead no plan, and are measured again."""

import dataclasses

import pytest

from autotune.core.workload import Budget, Workload
from autotune.devices.health import CpuReading
from autotune.devices.roofline import Roofline
from autotune.predictor.layers import sources
from autotune.predictor.layers.table import LatencyTable
from autotune.profiler.measure.points import unsettled_points
from autotune.results.layer_timings import LayerTimings
from autotune.testing.disturbance import CALM, Disturbance, Noise, SlowSpell
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedMachine
from autotune.testing.tuning import example_errors, example_sites, simulated_tuning, true_ratio

WORKLOAD = Workload(batch_size=1, sequence_length=256)
SITES = example_sites(WORKLOAD, seed=3)
LIMIT = 0.8


def machine_at(folder, disturbance=CALM, **given):
    return SimulatedMachine(
        simulated_hardware("cpu-like", seed=3),
        folder / "latency.sqlite",
        disturbance=disturbance,
        **given,
    )


def open_tuning(machine, folder):
    return simulated_tuning(
        machine,
        folder,
        budget=Budget(latency=f"{LIMIT}x"),
        sites=SITES,
        errors=example_errors(SITES, machine.rank_multiple, seed=3),
        workload=WORKLOAD,
    )


def busy(last_task):
    """Nearly a third of the calls are slowed for each of three neighbours, up to some task."""
    spells = [SlowSpell(factor=f, hits=0.3, first_task=0, last_task=last_task) for f in (2, 1.5, 3)]
    return Disturbance(noise=Noise(sigma=0.002, tail_probability=0.0), spells=tuple(spells))


def lucky(rows, *, converged):
    """For every layer, one rank that took a third of its time: the best rank for a solver."""
    chosen = {}
    for row in rows:
        if row.shape.rank:
            chosen.setdefault(row.shape.dense, []).append(row)
    marked = {
        sorted(points, key=lambda row: row.shape.rank)[-3].shape for points in chosen.values()
    }
    return [
        dataclasses.replace(
            row,
            ratio=row.ratio / 3,
            latency_s=row.latency_s / 3,
            ratio_low=row.ratio / 3.5,
            ratio_high=row.ratio / 2.5,
            converged=converged,
        )
        if row.shape in marked
        else row
        for row in rows
    ]


@pytest.mark.parametrize("converged", [False, True])
def test_a_wildly_lucky_rank_does_not_draw_the_plan(tmp_path, monkeypatch, converged):
    with open_tuning(machine_at(tmp_path), tmp_path / "out") as tuning:
        machine, planner = tuning.machine, tuning.planner
        roofline = Roofline.of(machine.spec, machine.threads)
        rows = lucky(machine.database.measurements(machine.fingerprint.id), converged=converged)

        def solved():
            """The true ratio of the plan that the table leads to."""
            table = LatencyTable(rows, roofline, cliff=machine.spec.cliff(machine.dtype))
            network = planner.network.on(table)
            plan = dataclasses.replace(planner, network=network).solve({}).plan
            return true_ratio(tuning, plan)

        assert solved() < LIMIT * 1.03
        monkeypatch.setattr(sources, "weigh_unsettled", lambda *args, **given: {})
        assert solved() > LIMIT * 1.1  # as they were measured, they do


def test_a_second_tuning_in_quiet_measures_the_unsettled_layers_and_only_them(tmp_path):
    with open_tuning(machine_at(tmp_path, busy(10**6)), tmp_path / "busy") as tuning:
        first = tuning.machine
        wanted = {row.shape for row in first.database.measurements(first.fingerprint.id)}
        left = unsettled_points(first.database, first.fingerprint, wanted=wanted)
        found = first.layer_timings()
        before = {r.shape: r for r in first.database.measurements(first.fingerprint.id)}
    assert left
    assert found == LayerTimings(
        settled=len(wanted) - len(left), total=len(wanted), load=None, cores=None
    )
    with open_tuning(machine_at(tmp_path), tmp_path / "quiet") as tuning:
        second = tuning.machine
        after = {r.shape: r for r in second.database.measurements(second.fingerprint.id)}
        found = second.layer_timings()
    assert found.settled == found.total == len(wanted)
    assert {shape for shape in wanted if after[shape] != before[shape]} == set(left)


def test_a_neighbour_that_leaves_costs_no_timing(tmp_path):
    with open_tuning(machine_at(tmp_path, busy(4)), tmp_path / "out") as tuning:
        found = tuning.machine.layer_timings()
    assert found.settled == found.total > 0


@pytest.mark.parametrize("remeasure", [False, True])
def test_known_layers_are_measured_again_only_where_that_was_asked_for(tmp_path, remeasure):
    with open_tuning(machine_at(tmp_path), tmp_path / "first") as first:
        assert first.machine.has_measured
    with open_tuning(machine_at(tmp_path), tmp_path / "first") as again:
        assert not again.machine.has_measured
    noise = Disturbance(noise=Noise(sigma=0.001, tail_probability=0.0))
    machine = machine_at(tmp_path, noise, remeasure=remeasure)
    before = {r.shape: r for r in machine.database.measurements(machine.fingerprint.id)}
    with open_tuning(machine, tmp_path / "second") as second:
        after = {r.shape: r for r in machine.database.measurements(machine.fingerprint.id)}
        pairs = [shape for shape in before if shape.rank]
        assert all((after[shape] != before[shape]) == remeasure for shape in pairs)
        tasks = machine.simulated.tasks_begun
        machine.measure_layers(before, second.workspace, stage="once more")
        assert machine.simulated.tasks_begun == tasks


def test_timings_are_reported_with_the_load():
    found = LayerTimings(settled=52, total=66, load=5.8, cores=2)
    assert found.text == "52 of 66 layer timings settled; load 5.8 on 2 cores"
    assert "14 of 66 layer timings did not settle (load 5.8 on 2 cores)" in found.warning
    assert "again unless this run meets its budget; with --remeasure it does so" in found.warning
    quiet = LayerTimings(settled=66, total=66, load=None, cores=None)
    assert (quiet.text, quiet.warning) == ("66 of 66 layer timings settled", None)


def test_a_busy_host_is_a_warning_before_anything_is_measured(tmp_path):
    reading = CpuReading(name="x", threads=2, load=5.8, quota=None, governor=None)
    machine = machine_at(tmp_path)
    machine._read_host = lambda: reading
    assert machine.disturbances() == []
    machine.prepare()
    (text,) = machine.disturbances()
    assert "load of 5.8 on 2 cores" in text
    assert machine.layer_timings() == LayerTimings(settled=0, total=0, load=5.8, cores=2)
