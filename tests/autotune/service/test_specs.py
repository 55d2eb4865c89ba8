"""A job's options are its command's, stored by subject; flat names of older versions still work."""

import dataclasses
import json
import sqlite3

import click
import pytest
from pydantic import ValidationError

from autotune.cli.main import cli as root
from autotune.core.options import check_options, entries, option
from autotune.core.options_json import from_json, nested_from_flat, to_json
from autotune.service.job_records import Job
from autotune.service.jobs import JobDatabase
from autotune.service.runner import command_of
from autotune.service.schema import TakesFlatNames, pydantic_model
from autotune.service.specs import (
    KINDS,
    arguments,
    canonical,
    defaults,
    flat_spec,
    spec_model,
    upgraded,
)
from autotune.tuning.request import TuneRequest
from autotune.tuning.stored_request import read_request
from tests.autotune.service.conftest import TUNE

SET_BY_THE_SERVICE = {
    "tune": {
        "output",
        "database",
        "quiet",
        "output_format",
        "farm",
        "token_file",
        "request_file",
        "print_request",
    },
    "profile": {"database", "output_format", "farm", "token_file"},
    "export": {"folder", "output", "formats"},
    "verify": {"folder", "output_format"},
    "drift": {"database", "output_format"},
}
# As version 2a6778f stored it: every field, by its flat name.
OLD = {
    "activation_budget": None,
    "allocator": "exact",
    "allow_extrapolation": False,
    "backend": None,
    "batch_size": 1,
    "calibration": "text.txt",
    "calibration_samples": 4,
    "device": "cpu",
    "dtype": None,
    "evaluation": None,
    "factorizer": "svd",
    "flops_budget": None,
    "ignore": [],
    "isl": 64,
    "jobs": None,
    "joint": False,
    "kv_cache_budget": None,
    "latency_budget": "1x",
    "measure_seconds": None,
    "memory_budget": None,
    "metric": None,
    "model": "code-llama-3m",
    "osl": 0,
    "params_budget": None,
    "phase": None,
    "rounds": 1,
    "seed": 0,
    "sensitivity_rounds": 0,
    "storage": "fp32",
    "targets": ["mlp"],
    "threads": None,
    "trials": 0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_has_the_options_of_its_command(kind):
    command = root
    for word in KINDS[kind].path:
        command = command.get_command(click.Context(command), word)
    options = {param.name for param in command.params} - {"json"}
    assert set(defaults(kind)) - {"form"} == options - SET_BY_THE_SERVICE[kind]


def test_a_new_option_is_everywhere_once_it_is_declared():
    """What `docs/extending.md` promises: one declaration, no other edit."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Healing:
        PATH = "healing"
        steps: int = option(0, flag="--healing-steps", ge=0, le=10_000, help="Steps of healing.")

        def __post_init__(self):
            check_options(self)

    from autotune.cli.schema import given, schema_options

    command = click.Command("x", callback=lambda **values: values)
    schema_options(Healing)(command)
    parsed = command.main(["--healing-steps", "7"], standalone_mode=False)
    assert given(Healing, parsed) == {"healing": {"steps": 7}}
    model = pydantic_model(Healing, "HealingOptions")
    assert model(steps=7).model_dump() == {"steps": 7}
    with pytest.raises(ValidationError):
        model(steps=-1)
    assert to_json(from_json(Healing, {"steps": 7})) == {"steps": 7}
    assert [entry.path for entry in entries(Healing)] == ["healing.steps"]


def test_what_a_command_refuses_is_refused_before(kind="drift"):
    for anchors in (0, 1001, "x"):
        with pytest.raises(ValidationError):
            spec_model(kind)(anchors=anchors)
    assert arguments(kind, canonical(kind, {"anchors": 5})) == ["--anchors=5"]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"tune"}))
def test_no_option_given_means_no_argument(kind):
    run = {"run": "x"} if KINDS[kind].of_a_run else {}
    spec = canonical(kind, run)
    assert arguments(kind, spec) == []
    assert spec == defaults(kind) | run


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("profile", {"tokens": [1, 128], "shapes": ["64x96"], "ranks": [16], "device": "--help"}),
        ("export", {"form": "tensorrt", "decode": True, "build_limit": 2.5, "device": "h200"}),
        ("drift", {"anchors": 3, "threads": 1, "dtype": "fp32"}),
    ],
)
def test_the_command_reads_what_the_spec_said(kind, spec):
    """Parsed by the command itself, the arguments give the spec back."""
    command = root
    for word in KINDS[kind].path:
        command = command.get_command(click.Context(command), word)
    command = click.Command("x", params=[p for p in command.params if p.name != "folder"])
    whole = canonical(kind, spec)
    parsed = command.make_context("x", arguments(kind, whole)).params
    if kind == "export":
        parsed["form"] = parsed.pop("formats")[0]
    for name, value in spec.items():
        found = parsed[name]
        assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize(
    "field",
    [
        {"unknown": 1},
        {"isl": -1},
        {"isl": "x"},
        {"isl": 2**40},
        {"dtype": "int4"},
        {"measure_seconds": float("nan")},
        {"measure_seconds": float("inf")},
        {"model": "a\x00b"},
        {"model": "x" * 501},
        {"targets": ["x"] * 65},
        {"targets": "mlp"},
        {"output": "/tmp"},
        {"database": "x"},
        {"farm": "10.0.0.1:1"},
        {"machine": {"database": "x"}},
        {"machine": {"farm_token": "x"}},
        {"search": {"trials": -1}},
        {"search": None},
        {"search": 5, "trials": 1},
        {"trials": 3, "search": {"trials": 3}},
        {"budget": {"x": "1x"}},
    ],
)
def test_what_is_no_option_is_refused(field):
    with pytest.raises(ValidationError):
        spec_model("tune")(**field)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"rounds": 99}, ("rounds",)),
        ({"search": {"rounds": 99}}, ("search", "rounds")),
        ({"targets": ["a\x00"]}, ("targets", 0)),
        ({"calibration": "a\x00"}, ("calibration",)),
        ({"calibration": {"seed": "x"}}, ("calibration", "seed")),
        ({"colour": 1}, ("colour",)),
    ],
)
def test_errors_are_at_the_name_that_was_given(values, where):
    with pytest.raises(ValidationError) as caught:
        spec_model("tune").model_validate(values)
    assert [one["loc"] for one in caught.value.errors()] == [where]


def test_flat_and_nested_names_make_the_same_spec():
    flat = spec_model("tune").model_validate(TUNE)
    nested = spec_model("tune").model_validate(nested_from_flat(TuneRequest, TUNE))
    assert isinstance(flat, TakesFlatNames)
    assert (flat.flat, nested.flat) == (True, False)
    specs = [canonical("tune", each.model_dump(exclude_unset=True)) for each in (flat, nested)]
    assert specs[0] == specs[1]
    assert specs[0]["calibration"]["calibration"] == "text.txt"
    assert specs[0]["method"]["joint"] is False
    assert set(specs[0]) == {
        "model",
        "machine",
        "budget",
        "workload",
        "calibration",
        "method",
        "search",
        "seed",
        "effort",
        "allow_quality_loss",
    }
    assert flat_spec("tune", specs[0])["latency_budget"] == "1x"


def test_the_model_of_a_tuning_says_what_its_options_are():
    schema = spec_model("tune").model_json_schema()
    trials = schema["$defs"]["SearchOptions"]["properties"]["trials"]
    assert trials["description"].startswith("Optuna trials")
    assert {"minimum": 0, "maximum": 100_000, "type": "integer"} in trials["anyOf"]
    assert "database" not in schema["$defs"]["MachineOptions"]["properties"]


def test_a_spec_of_an_older_version_is_read_in_todays_form(settings):
    spec = upgraded("tune", OLD)
    # That version knew neither option: it is searched for as one without them is today.
    known = {name: value for name, value in TUNE.items() if name not in ("precision", "factors")}
    assert spec == canonical("tune", nested_from_flat(TuneRequest, known))
    assert upgraded("tune", spec) == spec
    strange = {**OLD, "colour": "red"}
    assert upgraded("tune", strange) == strange
    assert upgraded("drift", {"anchors": 5}) == {"anchors": 5}


def test_a_job_of_an_older_version_is_listed_repeated_and_runs(settings, roots):
    with JobDatabase(settings.job_database) as database:
        job, _ = database.submit("tune", {}, device="cpu", idempotency_key="k")
    with sqlite3.connect(settings.job_database) as file:
        file.execute("UPDATE job SET spec = ?", [json.dumps(OLD)])
    with JobDatabase(settings.job_database) as database:
        found = database.get(job.id)
        assert found.spec["workload"]["sequence_length"] == 64
        again, new = database.submit("tune", found.spec, device="cpu", idempotency_key="k")
        assert (again.id, new) == (job.id, False)
        assert database.submit("tune", OLD, device="cpu", idempotency_key="k")[1] is False
    check_command(settings, roots, found)


def check_command(settings, roots, job):
    """The command line of the job reads the request that was stored for it."""
    command = command_of(settings, job)
    path = settings.job_folder(job.id) / "request.json"
    assert command == ["tune", f"--request={path}", "--json"]
    request = from_json(TuneRequest, read_request(path))
    assert request.model == str(roots / "code-llama-3m")
    assert request.output == settings.run_folder(job.id)
    assert request.calibration.calibration == str(roots / "text.txt")
    assert request.machine.threads == 1
    assert (request.search.trials, request.method.targets) == (0, ("mlp",))
    request.check()


def test_a_tuning_runs_through_its_stored_request(settings, roots):
    with JobDatabase(settings.job_database) as database:
        job, _ = database.submit("tune", upgraded("tune", OLD), device="cpu")
    assert isinstance(job, Job)
    check_command(settings, roots, job)
    assert "latency.sqlite" not in (settings.job_folder(job.id) / "request.json").read_text()
