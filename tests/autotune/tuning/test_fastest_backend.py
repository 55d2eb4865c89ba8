"""The backend that runs a model fastest."""

import pytest

from autotune.core.errors import MeasurementError, UsageError
from autotune.core.types import Budget
from autotune.tuning import fastest_backend as backends
from autotune.tuning.fastest_backend import candidates, fastest_backend
from autotune.tuning.machines import local_machine
from autotune.tuning.options import MachineOptions
from autotune.tuning.request import TuneRequest
from tests.autotune.tuning.small import small_home, tune_small


@pytest.fixture
def machine(tmp_path):
    with local_machine(MachineOptions(database=tmp_path / "db.sqlite", threads=1)) as machine:
        yield machine


def request_of(tmp_path, **machine):
    return TuneRequest(
        output=tmp_path / "out",
        budget=Budget(latency="0.5x"),
        machine=MachineOptions(backend="auto", database=tmp_path / "db.sqlite", **machine),
    )


def compared(tmp_path, machine, monkeypatch, seconds):
    """Compare with these latencies of the dense model; an error stands for a model it refuses."""

    def latencies(request, model, *, machine, workspace):
        found = seconds[machine.backend.name]
        if isinstance(found, Exception):
            raise found
        yield from found.items()

    monkeypatch.setattr(backends, "trace_model", lambda loaded, workload: None)
    monkeypatch.setattr(backends, "candidates", lambda usual: list(seconds))
    monkeypatch.setattr(backends, "_dense_latencies", latencies)
    notes = []
    workspace = type("Workspace", (), {"note": notes.append})
    request = request_of(tmp_path)
    found = fastest_backend(request, None, usual=machine, workspace=workspace)
    return (*found, notes)


def test_the_fastest_is_taken_in_whatever_dtype(tmp_path, machine, monkeypatch):
    seconds = {"onnxruntime-cpu": {"fp32": 0.1}, "openvino-cpu": {"fp32": 0.12, "bf16": 0.05}}
    request, found, notes = compared(tmp_path, machine, monkeypatch, seconds)
    assert request.machine.backend == "openvino-cpu"
    assert found == {"onnxruntime-cpu": 0.1, "openvino-cpu": 0.12, "openvino-cpu bf16": 0.05}
    assert notes == ["openvino-cpu runs the dense model fastest"]


@pytest.mark.parametrize(
    ("seconds", "taken"), [(0.1, "torch-compile"), (0.107, "openvino-cpu"), (0.13, "openvino-cpu")]
)
def test_a_graph_is_preferred_where_nothing_else_is_surely_faster(
    tmp_path, machine, monkeypatch, seconds, taken
):
    others = {"onnxruntime-cpu": {"fp32": 0.12}, "openvino-cpu": {"fp32": 0.115}}
    request, _, notes = compared(
        tmp_path, machine, monkeypatch, {**others, "torch-compile": {"fp32": seconds}}
    )
    assert request.machine.backend == taken
    assert ("opens ONNX graphs" in notes[-1]) == (seconds == 0.107)


def test_what_does_not_run_the_model_is_left_out(tmp_path, machine, monkeypatch):
    seconds = {"onnxruntime-cpu": {"fp32": 0.1}, "torch-eager": MeasurementError("it fails")}
    request, found, notes = compared(tmp_path, machine, monkeypatch, seconds)
    assert request.machine.backend == "onnxruntime-cpu"
    assert found == {"onnxruntime-cpu": 0.1}
    assert notes[0] == "torch-eager is not compared: it fails"


def test_some_backend_has_to_run_the_model(tmp_path, machine, monkeypatch):
    seconds = {"onnxruntime-cpu": MeasurementError("it fails")}
    with pytest.raises(MeasurementError, match="no backend on this machine runs the model"):
        compared(tmp_path, machine, monkeypatch, seconds)


def test_those_that_are_installed_are_compared(machine):
    found = candidates(machine)
    assert found[0] == "onnxruntime-cpu"
    assert {"openvino-cpu", "torch-eager", "torch-compile"} <= set(found)
    assert not {"tensorrt", "torch-cudagraph"} & set(found)


def test_a_farm_has_no_backends_to_compare(tmp_path):
    with pytest.raises(UsageError, match="auto compares backends of this machine"):
        request_of(tmp_path, farm="127.0.0.1:6379").check()


@pytest.mark.slow
@pytest.mark.duration(150)
def test_the_result_shows_all_that_were_compared(tmp_path):
    result = tune_small(
        small_home(tmp_path), "out", backend="auto", latency_budget="1s", allow_quality_loss=True
    )
    record = result.record
    assert {"onnxruntime-cpu", "openvino-cpu", "torch-eager"} <= set(record.dense_latencies_s)
    seconds = record.dense_latencies_s
    fastest = min(seconds, key=seconds.get)
    graph = record.backend in ("onnxruntime-cpu", "openvino-cpu")
    assert record.backend == fastest or (
        graph and seconds[record.backend] <= 1.1 * seconds[fastest]
    )
