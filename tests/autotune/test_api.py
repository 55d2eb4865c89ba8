"""`autotune.tune`: options as objects, and by the flat names of older versions."""

import inspect
import re
from pathlib import Path

import pytest

import autotune
from autotune.api import make_request, tune
from autotune.compress.calibration_plan import CalibrationPlan
from autotune.core.options import OptionError, entries
from autotune.tuning.options import MachineOptions, MethodOptions, SearchOptions
from autotune.tuning.request import TuneOptions, TuneRequest

BUDGET = autotune.Budget(latency="0.85x")
# The keywords that `tune` had before options were objects.
OLD = {
    "device": "cpu",
    "backend": "torch-eager",
    "dtype": "fp32",
    "calibration": Path("text.txt"),
    "evaluation": "held.txt",
    "calibration_samples": 9,
    "metric": "kfac",
    "factorizer": "als",
    "allocator": "exact",
    "storage": "bf16",
    "joint": False,
    "jobs": 2,
    "sensitivity_rounds": 2,
    "trials": 5,
    "rounds": 4,
    "threads": 1,
    "targets": ("mlp",),
    "ignore": ["head"],
    "database": "x.sqlite",
    "seed": 3,
}


def test_flat_keywords_and_option_objects_make_the_same_request():
    flat = make_request("m", budget=BUDGET, output="out", flat=OLD)
    nested = make_request(
        "m",
        budget=BUDGET,
        output="out",
        options=TuneOptions(
            machine=MachineOptions(
                device="cpu",
                backend="torch-eager",
                dtype="fp32",
                threads=1,
                database=Path("x.sqlite"),
            ),
            calibration=CalibrationPlan(
                calibration="text.txt", evaluation="held.txt", statistics_samples=9
            ),
            method=MethodOptions(
                metric="kfac",
                factorizer="als",
                allocator="exact",
                storage="bf16",
                joint=False,
                targets=("mlp",),
                ignore=("head",),
            ),
            search=SearchOptions(jobs=2, sensitivity_rounds=2, trials=5, rounds=4),
            seed=3,
        ),
    )
    assert flat == nested
    assert flat.calibration.seed == 3
    assert flat.machine.database == Path("x.sqlite")


def test_everything_that_the_command_line_offers_can_be_set():
    given = {
        "allow_extrapolation": True,
        "measure_seconds": 2,
        "farm": "10.0.0.1:6380",
        "farm_token": "t" * 32,
    }
    machine = make_request(budget=BUDGET, flat=given).machine
    assert (machine.allow_extrapolation, machine.measure_seconds) == (True, 2.0)
    assert (machine.farm, machine.farm_token) == ("10.0.0.1:6380", "t" * 32)
    own = set(inspect.signature(tune).parameters)
    for entry in entries(TuneRequest):
        name = entry.path.rpartition(".")[2]
        if entry.option.flag and name not in own:
            value = entry.option.names()[0] if entry.option.choices else None
            make_request(budget=BUDGET, flat={entry.option.flat: value})


def test_a_keyword_goes_before_an_object_and_effort_fills_the_rest(monkeypatch):
    monkeypatch.delenv("AUTOTUNE_MEASURE_SECONDS", raising=False)
    options = TuneOptions(search=SearchOptions(margin=0.02))
    request = make_request(budget=BUDGET, effort="quick", options=options, flat={"rounds": 7})
    assert (request.search.margin, request.search.rounds, request.search.trials) == (0.02, 7, 0)
    assert request.machine.measure_seconds == 5.0


def test_a_budget_and_a_workload_may_be_keywords():
    flat = {"latency_budget": "0.9x", "batch_size": 2, "isl": 64, "osl": 8}
    request = make_request(flat=flat)
    workload = autotune.Workload(batch_size=2, sequence_length=64, output_length=8)
    assert request.budget == autotune.Budget(latency="0.9x")
    assert (request.workload, workload.phase) == (workload, "request")
    given = autotune.Workload(batch_size=2)
    more = {"osl": 8, "params_budget": "0.5x"}
    request = make_request(budget=BUDGET, workload=given, flat=more)
    assert request.budget == autotune.Budget(latency="0.85x", parameters="0.5x")
    assert (request.workload.batch_size, request.workload.phase) == (2, "request")
    with pytest.raises(OptionError, match=r"no budget given; .* such as latency_budget 0.85x$"):
        tune()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trials": -1}, "trials must be 0 to 100000, got -1"),
        ({"metric": "magic"}, "metric cannot be used: unknown metric"),
        ({"backend": "magic"}, "backend: unknown backend 'magic'"),
        ({"device": "abacus"}, "device: unknown device 'abacus'"),
        ({"threads": 10_000}, "threads must be 1 to"),
        ({"model": "./nowhere"}, "model: model './nowhere' does not exist"),
        ({"calibration": "/nope"}, "calibration /nope cannot be read"),
        ({"evaluation": "/nope"}, "evaluation /nope cannot be read"),
        ({"farm": "x", "farm_token": "t" * 32}, "farm: 'x' is not a valid address"),
        ({"isl": 0}, "isl must be 1 or more, got 0"),
        ({"osl": 4, "phase": "prefill"}, "osl needs phase decode or request"),
        (
            {"workload": autotune.Workload(output_length=4), "phase": "prefill"},
            "workload.output_length needs phase decode or request",
        ),
        (
            {"options": TuneOptions(search=SearchOptions(trials=0)), "allocator": "exact+optuna"},
            "allocator exact+optuna needs search.trials of 1 or more",
        ),
        (
            {"options": TuneOptions(machine=MachineOptions(backend="magic"))},
            "machine.backend: unknown backend 'magic'",
        ),
    ],
)
def test_errors_name_the_option_as_it_was_written(given, said):
    with pytest.raises(autotune.core.errors.UsageError) as caught:
        tune(**{"budget": BUDGET, **given})
    assert str(caught.value).startswith(said)


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'; options are"):
        tune(budget=BUDGET, colour="red")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": "0.9x"}, "budget must be a Budget, such as Budget(latency='0.85x'); or give"),
        ({"budget": {"latency": "0.9x"}}, "budget must be a Budget"),
        ({"budget": BUDGET, "workload": 8}, "workload must be a Workload, such as"),
        ({"budget": BUDGET, "options": {}}, "options must be a TuneOptions"),
    ],
)
def test_another_type_than_the_options_own_is_named(given, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        tune(**given)


def test_a_farm_without_a_token_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("AUTOTUNE_FARM_TOKEN", raising=False)
    with pytest.raises(
        autotune.core.errors.UsageError, match="a farm token of at least 32 characters"
    ):
        tune(budget=BUDGET, farm="10.0.0.1:6380")


def test_a_calibration_plan_may_stand_for_its_file():
    plan = CalibrationPlan(calibration="a.txt", heldout_samples=5)
    request = make_request(budget=BUDGET, flat={"calibration": plan, "calibration_samples": 9})
    assert request.calibration.heldout_samples == 5
    assert request.calibration.statistics_samples == 9


def test_the_function_is_no_package():
    """A package named like the function would take its place once it is imported."""
    import autotune
    import autotune.tuning.session

    assert autotune.tune is autotune.api.tune


def test_every_public_name_is_there():
    for name in set(autotune.__all__) - {"__version__"}:
        assert callable(getattr(autotune, name)), name


def test_what_a_call_takes_is_exported():
    for name in ("TuneOptions", "MachineOptions", "MethodOptions", "SearchOptions"):
        assert name in autotune.__all__
    plan = autotune.CalibrationPlan(calibration="a.txt")
    options = autotune.TuneOptions(machine=autotune.MachineOptions(threads=1), calibration=plan)
    request = make_request(budget=BUDGET, options=options)
    assert (request.machine.threads, request.calibration.calibration) == (1, "a.txt")
