"""`autotune.tune`: options as objects, and by the flat names of older versions."""

import inspect
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
        part, _, name = entry.path.rpartition(".")
        if entry.option.flag and part not in ("budget", "workload") and name not in own:
            value = entry.option.names()[:1] if entry.option.choices else None
            make_request(budget=BUDGET, flat={entry.option.flat: value[0] if value else None})


def test_a_keyword_goes_before_an_object_and_effort_fills_the_rest(monkeypatch):
    monkeypatch.delenv("AUTOTUNE_MEASURE_SECONDS", raising=False)
    options = TuneOptions(search=SearchOptions(margin=0.02))
    request = make_request(budget=BUDGET, effort="quick", options=options, flat={"rounds": 7})
    assert (request.search.margin, request.search.rounds, request.search.trials) == (0.02, 7, 0)
    assert request.machine.measure_seconds == 5.0


def test_errors_name_the_option_as_the_library_does():
    with pytest.raises(OptionError, match=r"^search.trials must be 0 to 100000, got -1$"):
        tune(budget=BUDGET, trials=-1)
    with pytest.raises(OptionError, match=r"^method.metric cannot be used: unknown metric"):
        tune(budget=BUDGET, metric="magic")
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'; options are"):
        tune(budget=BUDGET, colour="red")
    with pytest.raises(TypeError, match="unexpected keyword argument 'isl'"):
        tune(budget=BUDGET, isl=4)  # a part of `workload`


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
