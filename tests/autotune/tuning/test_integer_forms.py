"""Layers of integers through a whole tuning, on every backend that runs them."""

import json

import onnx
import pytest

import autotune
from autotune.compress.integer_layers import has_integer_layers
from autotune.compress.loading import load_checkpoint
from autotune.core.errors import UsageError
from autotune.core.forms import INT8_STATIC, NATIVE, parse_form
from autotune.devices.detect import has_int8_products
from autotune.export.graphs import forms as tuned_forms
from autotune.export.onnx import export_onnx
from autotune.export.tensorrt import export_tensorrt
from autotune.predictor.network.model import NetworkModel
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import measured_rows
from autotune.results.checks import CheckKind
from tests.autotune.tuning.small import small_home, tune_small

pytestmark = [pytest.mark.slow, pytest.mark.duration(60)]
# What every processor is offered, and what those with 8-bit products are.
BACKENDS = {"onnxruntime-cpu": "int8-weight-only,int4-weight-only"}
if has_int8_products():
    BACKENDS = {
        "onnxruntime-cpu": "int8-static,int8-dynamic,int8-weight-only,int4-weight-only",
        "openvino-cpu": "int8-static",
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_home(tmp_path_factory.mktemp("int8"))


def tune(home, name, **given):
    usual = {"memory_budget": "0.85x", "sensitivity_rounds": 1, "allow_quality_loss": True}
    return tune_small(home, name, **(usual | given))


@pytest.fixture(scope="module", params=BACKENDS)
def tuned(home, request):
    """The same bytes with and without integers."""
    return {
        precision: tune(
            home, f"{request.param}-{number}", backend=request.param, precision=precision
        )
        for number, precision in enumerate(("native", BACKENDS[request.param]))
    }


def test_the_same_bytes_lose_less(tuned):
    native, rounded = (each.record for each in tuned.values())
    assert {site.form.precision for site in native.sites} == {"native"}
    found = {site.form.precision for site in rounded.sites}
    assert found & {*BACKENDS["onnxruntime-cpu"].split(",")}
    for record in (native, rounded):
        assert record.stored_bytes.compressed <= 0.85 * record.stored_bytes.dense
    assert rounded.quality.compressed < native.quality.compressed


def test_what_is_handed_out_is_the_plan(tuned):
    folder = list(tuned.values())[1].folder
    checked = autotune.verify(folder)
    held = {check.kind: check for check in checked.checks}
    for kind in (CheckKind.HASH, CheckKind.RANKS, CheckKind.PARITY, CheckKind.QUALITY):
        assert held[kind].holds, held[kind]
    assert has_integer_layers(load_checkpoint(folder).model)
    operators = {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    assert operators & {"QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits"}
    whole = (folder / "model" / "model.safetensors").stat().st_size
    dense = (next(iter(tuned.values())).folder / "model" / "model.safetensors").stat().st_size
    assert whole < 1.1 * dense  # both hold the same budget


def test_the_checkpoint_is_exported_again(tuned, tmp_path):
    folder = list(tuned.values())[1].folder
    manifest = export_onnx(folder, tmp_path / "again")
    found = {form.rpartition(":")[2] for form in manifest["forms"].values()}
    assert found & {*BACKENDS["onnxruntime-cpu"].split(",")}
    with pytest.raises(UsageError, match="has layers of integers, around which graphs are fp32"):
        export_onnx(folder, tmp_path / "half", dtype="fp16")


def test_tensorrt_is_handed_signed_integers_alone(tuned, tmp_path):
    """A kit of what it reads, compared with the checkpoint; the other precisions are refused."""
    folder = list(tuned.values())[1].folder
    precisions = {form.precision for form in tuned_forms(load_checkpoint(folder)).values()}
    refused = bool(precisions - {NATIVE, INT8_STATIC})
    assert refused == (folder.name == "onnxruntime-cpu-1")  # which is offered all of them
    if refused:
        with pytest.raises(UsageError, match="tune with precision native,int8-static"):
            export_tensorrt(folder, tmp_path / "kit", tensorrt=8)
        assert not (tmp_path / "kit").exists()
        return
    manifest = export_tensorrt(folder, tmp_path / "kit", tensorrt=8)
    (parity,) = manifest["parity"].values()
    assert all(case["error"] <= parity["tolerance"] for case in parity["cases"])
    task = json.loads((tmp_path / "kit" / "prefill" / "build.json").read_text())
    assert task["integers"] is True
    graph = onnx.load(tmp_path / "kit" / "prefill" / "model.onnx")
    rounded = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    held = {w.name: w for w in graph.graph.initializer}
    assert rounded
    for node in rounded:
        zero = onnx.numpy_helper.to_array(held[node.input[2]])
        assert zero.dtype == "int8" and not zero.any()


def test_a_precision_that_the_backend_lacks_is_refused(home):
    with pytest.raises(UsageError, match="precision int8-dynamic: openvino-cpu does not run"):
        tune(home, "refused", backend="openvino-cpu", precision="int8-dynamic")
    with pytest.raises(UsageError, match="must be auto or some of native, int8-static"):
        tune(home, "refused", precision="int3")


def test_pairs_that_cannot_pay_are_neither_measured_nor_offered(home, monkeypatch):
    """Their dense layer is measured, since the result is compared with it."""
    monkeypatch.setattr(NetworkModel, "pairs_may_pay", lambda network, site, precision: False)
    # "1x": what layers this small save is below the noise of their timings.
    given = {"latency_budget": "1x", "memory_budget": None, "database": home / "own.sqlite"}
    result = tune(home, "pairs", precision="native,int8-weight-only", **given)
    with LatencyDatabase(home / "own.sqlite") as database:
        (name,) = database.fingerprints()
        forms = {row.shape.form for row in measured_rows(database.rows(name))}
    rounded = {form for form in forms if form.precision != NATIVE}
    assert rounded == {parse_form("dense:int8-weight-only")}
    assert len(forms) > 2
    (search,) = result.folder.rglob("int8-errors*.json")
    assert "rank=" not in search.read_text()


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_processor_without_8_bit_products_is_named(home, monkeypatch, backend):
    monkeypatch.setattr("autotune.profiler.backends.base.has_int8_products", lambda: False)
    with pytest.raises(UsageError, match=r"which has no instructions that sum 8-bit products"):
        tune(home, "refused", backend=backend, precision="native,int8-static")
