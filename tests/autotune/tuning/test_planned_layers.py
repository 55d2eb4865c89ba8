"""What a tuning measures before it plans, and what its plan makes it measure besides."""

import pytest

from autotune.core.types import Budget, Workload
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import plan_forms
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.tuning import opening, planned_layers
from autotune.tuning.options import SearchOptions
from tests.autotune.tuning.small import small_request
from tests.conftest import LLAMA


@pytest.mark.slow
def test_guesses_that_could_change_the_plan_are_measured(tmp_path, monkeypatch):
    """A table of each layer's least and greatest rank leaves most of the plan to guesses.

    On simulated hardware: which guesses could change a plan depends on the timings.
    """
    wanted = {0}

    def ends(spec, shape, **offered):
        forms = plan_forms(spec, shape, **offered)
        wanted.update({forms[0].rank, forms[-1].rank})
        return [forms[0], forms[-1]]

    monkeypatch.setattr(planned_layers, "plan_forms", ends)
    monkeypatch.setattr(opening, "make_builder", SimulatedBuilder)
    request = small_request(
        LLAMA,
        tmp_path / "out",
        budget=Budget(latency="0.97x"),
        workload=Workload(batch_size=1, sequence_length=128),
        search=SearchOptions(trials=0, rounds=1, sensitivity_rounds=0, references=False),
    )
    database = tmp_path / "few.sqlite"
    machine = SimulatedMachine(simulated_hardware("cpu-like", seed=3), database)
    record = opening.tune(request, machine=machine).record
    with LatencyDatabase(database) as store:
        (name,) = store.fingerprints()
        rows = store.measurements(name)
    assert {row.shape.rank for row in rows} > wanted
    chosen = {site.form.rank for site in record.sites}
    assert chosen - wanted
    assert chosen <= {row.shape.rank for row in rows}, "nothing that is handed out is a guess"
