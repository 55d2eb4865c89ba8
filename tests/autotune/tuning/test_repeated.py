"""A tuning that is run again in the folder of its result."""

import dataclasses

import pytest

from autotune.core.runfolder import RunFolder
from autotune.core.types import Budget, Workload
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure import points
from autotune.results.layer_timings import LayerTimings
from autotune.results.result import result_text
from autotune.results.verdict import Verdict
from autotune.testing.disturbance import CALM
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.tuning import opening
from autotune.tuning.earlier import earlier_result, is_same
from autotune.tuning.options import SearchOptions
from tests.autotune.tuning.small import small_request
from tests.damage import save_model
from tests.records import stored_record


def test_a_tuning_that_ends_as_its_folder_did_is_the_same_result(tmp_path):
    record = stored_record()
    cost = dataclasses.replace(record.cost, seconds=record.cost.seconds + 1)
    timings = LayerTimings(settled=1, total=2, load=5.8, cores=2)
    again = dataclasses.replace(record, cost=cost, layer_timings=timings)
    with RunFolder(tmp_path) as folder:
        assert earlier_result(folder) is None
        (tmp_path / "result.json").write_text(result_text(record))
        assert is_same(again, earlier_result(folder))
        assert not is_same(dataclasses.replace(again, measured_ratio=0.9), earlier_result(folder))
    assert not is_same(again, None)


def request_of(home, budget, *, rounds):
    return small_request(
        home / "dense",
        home / "out",
        budget=budget,
        workload=Workload(batch_size=2, sequence_length=16),
        search=SearchOptions(trials=0, rounds=rounds, sensitivity_rounds=0),
    )


@pytest.mark.slow
def test_only_the_same_request_leaves_unsettled_timings_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "make_builder", SimulatedBuilder)
    save_model(tmp_path / "dense")

    def tuned(budget):
        request = request_of(tmp_path, Budget(parameters=budget, latency="1s"), rounds=1)
        hardware = simulated_hardware("cpu-like", seed=3)
        machine = SimulatedMachine(hardware, tmp_path / "latency.sqlite", disturbance=CALM)
        record = opening.tune(request, machine=machine).record
        assert record.verdict is Verdict.MET
        return record.layer_timings

    with monkeypatch.context() as patch:
        patch.setattr(points, "_has_settled", lambda timing, index, *, policy: index != 1)
        first = tuned("0.95x")
    assert first.settled < first.total
    assert tuned("0.95x") == first
    other = tuned("0.8x")
    assert other.settled == other.total


def test_the_same_command_changes_nothing_whatever_the_table_holds_by_then(tmp_path, monkeypatch):
    """Layers are measured again during a tuning: its first plan was chosen by another table."""
    monkeypatch.setattr(opening, "make_builder", SimulatedBuilder)
    save_model(tmp_path / "dense")
    measured = []

    def tuned():
        hardware = simulated_hardware("cpu-like", seed=3)
        machine = SimulatedMachine(hardware, tmp_path / "latency.sqlite", disturbance=CALM)
        request = request_of(tmp_path, Budget(latency="0.9x"), rounds=3)
        record = opening.tune(request, machine=machine).record
        measured.append(machine.has_measured)
        return record

    first = tuned()
    assert first.verdict is Verdict.MET
    with LatencyDatabase(tmp_path / "latency.sqlite") as database:
        (name,) = database.fingerprints()
        rows = [row for row in database.measurements(name) if row.shape.rank]
        halves = ("latency_s", "ratio", "ratio_low", "ratio_high")
        faster = [
            dataclasses.replace(row, **{part: getattr(row, part) / 2 for part in halves})
            for row in rows
        ]
        run = database.start_run(first.device, "again")
        database.add(run, faster, remeasured=[row.shape for row in rows])
    again = tuned()
    assert measured == [True, False]
    assert [site.form for site in again.sites] == [site.form for site in first.sites]
    assert again.measured == first.measured
    assert again.rounds == first.rounds
