"""What a tuning is asked for: defaults, effort, and combinations that are refused."""

import dataclasses
import json

import pytest

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.integer_weights import LAYOUTS
from autotune.core.errors import UsageError
from autotune.core.options import EFFORTS, OptionError
from autotune.core.options_json import from_json, merged, to_json
from autotune.core.runfolder import RunFolder
from autotune.core.types import Budget, Workload
from autotune.tuning.options import MachineOptions, MethodOptions, SearchOptions
from autotune.tuning.request import TuneRequest
from autotune.tuning.stored_request import (
    note_request,
    noted_request,
    read_request,
    request_json,
    without_effort,
)

BUDGET = Budget(latency="0.85x")


@pytest.fixture(autouse=True)
def no_time_limit(monkeypatch):
    monkeypatch.delenv("AUTOTUNE_MEASURE_SECONDS", raising=False)


def spent(request):
    """What an effort sets."""
    search, machine = request.search, request.machine
    return (
        search.trials,
        search.rounds,
        search.sensitivity_rounds,
        machine.measure_seconds,
        request.calibration.statistics_samples,
    )


def test_the_default_workload_is_the_same_everywhere():
    assert (Workload().batch_size, Workload().sequence_length) == (8, 128)
    assert TuneRequest(budget=BUDGET).workload == Workload()


def test_normal_effort_is_what_was_the_default_before():
    assert spent(TuneRequest(budget=BUDGET)) == (12, 3, 1, 20.0, None)
    assert TuneRequest(budget=BUDGET).chosen_allocator == "exact+optuna"


def test_efforts_differ_and_what_is_given_goes_before():
    quick, thorough = (TuneRequest(budget=BUDGET, effort=e) for e in ("quick", "thorough"))
    assert spent(quick) == (0, 2, 0, 5.0, 64)
    assert spent(thorough) == (40, 5, 2, 60.0, 2048)
    given = TuneRequest(
        budget=BUDGET,
        effort="quick",
        search=SearchOptions(trials=7),
        machine=MachineOptions(measure_seconds=1),
        calibration=CalibrationPlan(statistics_samples=9),
    )
    assert spent(given) == (7, 2, 0, 1.0, 9)
    longer = TuneRequest(budget=BUDGET, effort="quick", workload=Workload(sequence_length=4096))
    assert longer.calibration.statistics_samples == 8


def test_the_variable_of_the_time_limit_goes_before_the_effort(monkeypatch):
    monkeypatch.setenv("AUTOTUNE_MEASURE_SECONDS", "0.3")
    assert TuneRequest(budget=BUDGET, effort="thorough").machine.measure_seconds == 0.3
    monkeypatch.setenv("AUTOTUNE_MEASURE_SECONDS", "nan")
    with pytest.raises(UsageError, match=r"AUTOTUNE_MEASURE_SECONDS must be 0.1 to 3600"):
        TuneRequest(budget=BUDGET)


def test_the_seed_is_the_calibrations_too_unless_it_has_its_own():
    assert TuneRequest(budget=BUDGET, seed=5).calibration.seed == 5
    own = TuneRequest(budget=BUDGET, seed=5, calibration=CalibrationPlan(seed=3))
    assert own.calibration.seed == 3


def test_the_phase_follows_from_the_output_length():
    assert Workload().phase == "prefill"
    assert Workload(output_length=4).phase == "request"
    assert Workload(output_length=4, phase="decode").phase == "decode"


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_stored_request_is_the_same_and_another_effort_can_be_asked_for(effort, tmp_path):
    request = TuneRequest(budget=BUDGET, effort=effort, method=MethodOptions(targets=("mlp",)))
    stored = request_json(request)
    assert "database" not in stored["machine"]
    path = tmp_path / "job.json"
    path.write_text(json.dumps(stored))
    values = read_request(path)
    assert from_json(TuneRequest, values) == request
    for other in EFFORTS:
        again = from_json(TuneRequest, merged(without_effort(values), {"effort": other}))
        assert spent(again) == spent(TuneRequest(budget=BUDGET, effort=other))
        assert again.method.targets == ("mlp",)


def test_a_request_written_by_hand_needs_no_type(tmp_path):
    (tmp_path / "job.json").write_text('{"model": "x"}')
    assert read_request(tmp_path / "job.json") == {"model": "x"}


def test_a_token_is_never_written_or_shown():
    machine = MachineOptions(farm="10.0.0.1:1", farm_token="hidden-token")
    request = TuneRequest(budget=BUDGET, machine=machine)
    assert "hidden-token" not in f"{request!r}{json.dumps(to_json(request))}{request_json(request)}"
    assert dataclasses.replace(request, seed=1).machine.farm_token == "hidden-token"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "one JSON object"),
        (None, "cannot be read"),
        ('{"type": "plan"}', "not of type 'tune-request'"),
        ('{"type": "tune-request", "version": 2}', "version 1"),
    ],
)
def test_a_file_that_holds_no_request_is_refused(text, said, tmp_path):
    path = tmp_path / "job.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_request(path)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"budget": Budget(activation_bytes="1x")}, "add budget.latency, budget.parameters"),
        (
            {"method": MethodOptions(factorizer="output-subspace")},
            "method.factorizer output-subspace minimizes .* set method.metric activation",
        ),
        (
            {"method": MethodOptions(allocator="exact+optuna"), "search": SearchOptions(trials=0)},
            "method.allocator exact.optuna needs search.trials of 1 or more",
        ),
        ({"machine": MachineOptions(threads=9999)}, "machine.threads must be 1 to"),
        ({"method": MethodOptions(metric="magic")}, "method.metric cannot be used: unknown metric"),
        ({"method": MethodOptions(metric="kfac:foo=2")}, "metric kfac: unknown option 'foo'"),
        ({"method": MethodOptions(allocator="exact:foo=2")}, "allocator exact: unknown option"),
        ({"method": MethodOptions(metric="asvd:alpha")}, "method.metric .* NAME:key=value"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(parts, said):
    request = TuneRequest(**{"budget": BUDGET, **parts})
    with pytest.raises(OptionError, match=said):
        request.check()


@pytest.mark.parametrize("name", ["targets", "ignore"])
def test_what_is_no_regular_expression_is_refused_at_once(name):
    with pytest.raises(OptionError, match=rf"method.{name} must be a regular expression: '\('"):
        MethodOptions(**{name: ("mlp", "(")})


def test_all_patterns_of_a_request_have_one_time_and_are_checked_once(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "autotune.tuning.options.check_pattern", lambda text, limit: seen.append((text, limit))
    )
    names = [f"once-{i}" for i in range(4)]
    for _ in range(2):
        MethodOptions(targets=tuple(names[:2]), ignore=tuple(names[2:]))
    assert [text for text, _ in seen] == names
    assert len({id(limit) for _, limit in seen}) == 1


@pytest.mark.parametrize(
    ("method", "offered"),
    [
        ({}, ("plain", "pivoted")),
        ({"factors": "auto"}, ("plain", "pivoted")),
        ({"factors": "pivoted"}, ("pivoted",)),
        ({"factors": "plain"}, ("plain",)),
        ({"factors": "auto", "storage": "fp16"}, ("plain",)),
        ({"factors": "auto", "allocator": "uniform"}, ("plain",)),
    ],
)
def test_which_structures_of_factors_are_offered(method, offered):
    request = TuneRequest(budget=BUDGET, method=MethodOptions(**method))
    assert request.structures == offered
    request.check()


@pytest.mark.parametrize("method", [{"storage": "remap8"}, {"allocator": "flar"}])
def test_pivoted_factors_where_only_plain_ones_are_known(method):
    request = TuneRequest(budget=BUDGET, method=MethodOptions(factors="pivoted", **method))
    with pytest.raises(UsageError, match=r"factors pivoted needs \S*allocator exact"):
        request.check()


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("postgresql://me:secret@host:5432/tunings", "postgresql://me@host:5432/tunings"),
        ("postgresql://host/tunings", "postgresql://host/tunings"),
    ],
)
def test_a_run_folder_keeps_the_request_without_a_password(tmp_path, address, kept):
    request = TuneRequest(
        output=tmp_path / "out",
        budget=Budget(latency="0.9x"),
        machine=MachineOptions(database=address),
    )
    with RunFolder(tmp_path / "out") as folder:
        note_request(folder, request)
    assert "secret" not in (tmp_path / "out" / ".cache" / "request.json").read_text()
    found = noted_request(tmp_path / "out")
    assert str(found.machine.database) == kept
    assert found == dataclasses.replace(
        request, machine=dataclasses.replace(request.machine, database=kept)
    )


@pytest.mark.parametrize(
    ("precision", "layers", "network"),
    [
        ("native", ("native",), ("native",)),
        ("bf16", ("native",), ("bf16",)),
        ("native,bf16", ("native",), ("native", "bf16")),
        ("int8-static", ("native", "int8-static"), ("native",)),
        ("bf16,int8-static", ("native", "int8-static"), ("bf16",)),
        ("auto", ("native", *LAYOUTS), ("native", "bf16")),
    ],
)
def test_a_precision_is_of_layers_or_of_the_network(tmp_path, precision, layers, network):
    method = MethodOptions(precision=precision)
    request = TuneRequest(output=tmp_path, budget=Budget(latency="0.9x"), method=method)
    assert request.precisions == layers
    assert request.network_dtypes == network


@pytest.mark.parametrize(
    ("budget", "layers", "network"),
    [
        ({"parameters": "0.9x"}, ("native",), ("native",)),
        ({"flops": "0.9x"}, ("native",), ("native",)),
        ({"weight_bytes": "0.5x"}, ("native", *LAYOUTS), ("native",)),
        ({"quality": "0.9"}, ("native", *LAYOUTS), ("native", "bf16")),
        ({"quality": "0.9", "latency": "0.5x"}, ("native", *LAYOUTS), ("native", "bf16")),
    ],
)
def test_auto_offers_what_the_budgets_can_gain_by(tmp_path, budget, layers, network):
    request = TuneRequest(output=tmp_path, budget=Budget(**budget))
    assert request.precisions == layers
    assert request.network_dtypes == network
    named = dataclasses.replace(request, method=MethodOptions(precision="native,int8-static"))
    assert named.precisions == ("native", "int8-static")
