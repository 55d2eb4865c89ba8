"""Graphs in the dtype of a device: what engines are built from and onnxruntime runs on a GPU."""

from types import SimpleNamespace

import onnx
import pytest

from autotune.compress.lowrank import replaced
from autotune.compress.sites import find_sites
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.tuning import builds
from tests.conftest import random_layers, tiny_model


@pytest.fixture
def context(tmp_path):
    model = tiny_model("llama")
    with RunFolder(tmp_path / "out") as folder:
        yield SimpleNamespace(
            loaded=SimpleNamespace(model=model, task="causal-lm"), folder=folder, dtype="fp16",
            backend=SimpleNamespace(runs="engine"), reporter=Reporter(), model_key={"model": "m"},
        )  # fmt: skip


def opset(graph):
    return onnx.load(graph, load_external_data=False).opset_import[0].version


@pytest.mark.parametrize(("tensorrt", "expected"), [(8, 17), (10, 18)])
def test_an_engine_gets_half_precision_at_an_opset_it_reads(
    context, monkeypatch, tensorrt, expected
):
    monkeypatch.setattr(builds, "engine_opset", lambda: expected)
    dense = builds.dense_artefact(context)
    assert opset(dense) == expected
    weights = onnx.load(dense).graph.initializer
    kinds = {w.data_type for w in weights if len(w.dims) == 2}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    assert builds.dense_artefact(context) == dense  # the second time from the cache
    step = builds.dense_artefact(context, "decode")
    assert step.name == "model_decode.onnx"
    assert any("past" in value.name for value in onnx.load(step).graph.input)


def test_pairs_stay_two_products(context):
    model = context.loaded.model
    layers = random_layers(model, find_sites(model).sites, 8)
    ranks = {name: layer.rank for name, layer in layers.items()}
    with replaced(model, layers):
        graph = builds.typed_graph(context, "prefill", "compressed", ranks, {"model": "m"})
    inner = [w for w in onnx.load(graph).graph.initializer if 8 in w.dims]
    assert len(inner) >= 2 * len(layers)
    facts = {p.key: p.value for p in onnx.load(graph).metadata_props}
    assert f'"{next(iter(layers))}": 8' in facts["autotune.ranks"]


@pytest.mark.parametrize(
    ("runs", "dtype", "typed"),
    [("graph", "fp32", False), ("graph", "fp16", True), ("engine", "fp32", True)],
)
def test_in_fp32_onnxruntime_runs_the_model_as_it_is(runs, dtype, typed):
    context = SimpleNamespace(backend=SimpleNamespace(runs=runs), dtype=dtype)
    assert builds.is_typed(context) == typed
