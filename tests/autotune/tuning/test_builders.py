"""What backends run: dense and compressed builds of each phase, and a model that stays dense."""

import json

import onnx
import pytest
import torch
from safetensors.torch import load_file

from autotune.compress.checkpoint import low_rank_layers
from autotune.compress.decode import decode_step
from autotune.compress.factors import Factors
from autotune.compress.loading import load_checkpoint
from autotune.core.errors import ModelError, UsageError
from autotune.core.forms import low_rank
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.core.types import Fingerprint
from autotune.devices.specs import find_device
from autotune.profiler.backends import make_backend
from autotune.profiler.backends.openvino_cpu import inference_dtype, open_model
from autotune.tuning import graph_builders
from autotune.tuning.builders import BUILDERS, CheckpointBuilder, make_builder
from autotune.tuning.compression import Compression
from autotune.tuning.graph_builders import (
    EngineOnnxBuilder,
    OnnxBuilder,
    OpenVinoBuilder,
    TypedOnnxBuilder,
)
from autotune.tuning.measuring import MeasuringMachine
from autotune.tuning.workspace import Workspace
from tests.autotune.tuning.conftest import Q
from tests.conftest import tiny_model

pytestmark = pytest.mark.duration(40)

# Backend and dtype, and the builder that they need.
KINDS = {
    ("torch-eager", "fp32"): CheckpointBuilder,
    ("torch-cudagraph", "bf16"): CheckpointBuilder,
    ("onnxruntime-cpu", "fp32"): OnnxBuilder,
    ("onnxruntime-cuda", "fp32"): OnnxBuilder,
    ("openvino-cpu", "fp32"): OpenVinoBuilder,
    ("openvino-cpu", "bf16"): OpenVinoBuilder,
    ("onnxruntime-cuda", "fp16"): TypedOnnxBuilder,
    ("tensorrt", "fp16"): EngineOnnxBuilder,
    ("tensorrt", "fp32"): EngineOnnxBuilder,
}
DOWN = "model.layers.1.mlp.down_proj"
JOINT = "model.layers.0.mlp.gate_proj+up_proj"
PLAN = {Q: low_rank(8), DOWN: low_rank(24), JOINT: low_rank(16)}
RANKS = {
    Q: 8,
    DOWN: 24,
    "model.layers.0.mlp.gate_proj": 16,
    "model.layers.0.mlp.up_proj": 16,
}


def machine_of(backend, dtype, versions=None):
    """A machine with that backend on which nothing is measured."""
    runs = make_backend(backend)
    spec = find_device("cpu" if "cpu" in runs.device_kinds else "h200")
    fingerprint = Fingerprint(
        device=spec.name,
        device_name="a test's",
        backend=backend,
        dtype=dtype,
        threads=1,
        versions=versions or {},
    )
    return MeasuringMachine(
        spec=spec,
        fingerprint=fingerprint,
        backend=runs,
        runner=None,
        database="unused",
        measure_seconds=1.0,
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One for all: what a test before it has traced is not traced again."""
    with RunFolder(tmp_path_factory.mktemp("out")) as folder:
        yield Workspace(folder=folder, reporter=Reporter())


@pytest.fixture
def builder_for(model, workspace):
    return lambda *given, **more: make_builder(
        model, machine_of(*given, **more), workspace=workspace
    )


@pytest.fixture(autouse=True)
def the_model_stays_dense(model):
    """Whatever is built in a test, and whatever fails in it."""
    before = {name: tensor.clone() for name, tensor in model.loaded.model.state_dict().items()}
    modules = dict(model.loaded.model.named_modules())
    yield
    after = model.loaded.model.state_dict()
    assert dict(model.loaded.model.named_modules()) == modules
    assert not low_rank_layers(model.loaded.model)
    assert not hasattr(model.loaded.model.config, "quantization_config")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def outputs(model, inputs, phase):
    """What torch computes."""
    with torch.no_grad():
        if phase == "decode":
            return decode_step(model, inputs)[0]
        return model(**inputs).logits


def opset(graph):
    return onnx.load(graph, load_external_data=False).opset_import[0].version


def metadata(graph):
    return {p.key: p.value for p in onnx.load(graph).metadata_props}


@pytest.mark.parametrize(("backend", "dtype"), KINDS)
def test_a_backend_names_its_builder(builder_for, backend, dtype):
    assert type(builder_for(backend, dtype)) is KINDS[backend, dtype]


def test_every_builder_is_one_that_a_backend_names():
    assert {BUILDERS.load(name) for name in BUILDERS} == set(KINDS.values())


@pytest.mark.slow
def test_a_graph_names_its_plan(builder_for, compression):
    builder = builder_for("onnxruntime-cpu", "fp32")
    facts = metadata(builder.compressed("prefill", compression, plan=PLAN))
    assert json.loads(facts["autotune.ranks"]) == RANKS
    plan = {Q: "rank=8", DOWN: "rank=24", JOINT: "rank=16"}
    assert json.loads(facts["autotune.plan"]) == plan
    assert facts["autotune.device"] == "a test's"
    assert facts["autotune.backend"] == "onnxruntime-cpu"


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_dense_graph_that_is_not_the_model_is_refused(model, tmp_path, monkeypatch, phase):
    """Whatever the reason: here the graph is of a model with other weights."""
    other = tiny_model("llama", seed=1).requires_grad_(False)
    for name in ("export_dense", "export_decode"):
        real = getattr(graph_builders, name)
        monkeypatch.setattr(
            graph_builders, name, lambda _, *given, real=real, **more: real(other, *given, **more)
        )
    with RunFolder(tmp_path) as folder:
        workspace = Workspace(folder=folder, reporter=Reporter())
        builder = make_builder(model, machine_of("onnxruntime-cpu", "fp32"), workspace=workspace)
        with pytest.raises(ModelError, match="no right ONNX graph: the exported graph differs"):
            builder.dense(phase)
        assert not [path for path in workspace.cache.iterdir() if path.name.startswith("dense")]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_graphs_for_openvino_compute_what_torch_does(builder_for, model, compression, phase, dtype):
    """Dense and with a plan, in the dtype that the graph names."""
    if dtype not in make_backend("openvino-cpu").inference_dtypes("fp32"):
        pytest.skip(f"the processor has no {dtype}")
    builder = builder_for("openvino-cpu", dtype)
    inputs = load_file(builder.inputs(phase))
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    dense = builder.dense(phase)
    compressed = builder.compressed(phase, compression, plan=PLAN)
    expected = outputs(model.loaded.model, inputs, phase)
    with compression.applied(PLAN) as applied:
        other = outputs(applied, inputs, phase)
    for graph, right in ((dense, expected), (compressed, other)):
        assert inference_dtype(graph) == dtype
        found = torch.from_numpy(open_model(graph, 1)(feeds)["logits"]).float()
        error = float((found - right).abs().max() / right.abs().max())
        assert error < (1e-4 if dtype == "fp32" else 5e-2)
        if dtype == "bf16":  # else it ran in fp32
            assert error > 1e-4


def test_a_graph_that_names_no_dtype_is_run_in_fp32(builder_for):
    assert inference_dtype(builder_for("onnxruntime-cpu", "fp32").dense("prefill")) == "fp32"


def test_the_dense_graph_is_compared_at_the_workload_and_at_other_shapes(builder_for):
    builder = builder_for("onnxruntime-cpu", "fp32")
    assert builder.checked("prefill") == [(2, 8), (1, 7), (3, 260)]
    assert builder.checked("decode") == [(2, 10), (1, 7), (3, 260)]


@pytest.mark.parametrize(
    ("dtype", "kind"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_checkpoints_are_in_the_dtype_of_the_machine(builder_for, model, compression, dtype, kind):
    builder = builder_for("torch-eager", dtype)
    dense = builder.dense("prefill")
    compressed = builder.compressed("prefill", compression, plan=PLAN)
    inputs = load_file(builder.inputs("prefill"))
    with compression.applied(PLAN) as applied:
        expected = outputs(applied, inputs, "prefill")
    for folder, ranks, wanted in (
        (dense, {}, outputs(model.loaded.model, inputs, "prefill")),
        (compressed, RANKS, expected),
    ):
        found = load_checkpoint(folder).model
        assert {p.dtype for p in found.parameters()} == {kind}
        assert {name: layer.rank for name, layer in low_rank_layers(found).items()} == ranks
        assert json.loads((folder / "task.json").read_text()) == {
            "task": "causal-lm",
            "dtype": dtype,
        }
        if dtype == "fp32":
            assert torch.allclose(outputs(found, inputs, "prefill"), wanted, atol=1e-5)


def test_one_checkpoint_serves_every_phase(builder_for, compression):
    builder = builder_for("torch-eager", "fp32")
    assert builder.dense("prefill") == builder.dense("decode")
    one, other = (
        builder.compressed(phase, compression, plan=PLAN) for phase in ("prefill", "decode")
    )
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_typed_graphs_hold_the_plan_in_the_dtype(builder_for, compression, phase):
    builder = builder_for("onnxruntime-cuda", "fp16")
    for graph, ranks in (
        (builder.dense(phase), {}),
        (builder.compressed(phase, compression, plan=PLAN), RANKS),
    ):
        loaded = onnx.load(graph)
        assert json.loads(metadata(graph)["autotune.ranks"]) == ranks
        assert metadata(graph)["autotune.dtype"] == "fp16"
        found = {w.data_type for w in loaded.graph.initializer if len(w.dims) == 2}
        assert onnx.TensorProto.FLOAT16 in found
        assert onnx.TensorProto.FLOAT not in found
        assert any("past" in v.name for v in loaded.graph.input) is (phase == "decode")


@pytest.mark.slow
@pytest.mark.parametrize(("tensorrt", "expected"), [("8.6.1", 17), ("10.3.0", 18)])
def test_an_engine_gets_half_precision_at_an_opset_it_reads(builder_for, tensorrt, expected):
    """The TensorRT of the machine counts: on a farm it is not the one installed here."""
    builder = builder_for("tensorrt", "fp16", versions={"tensorrt": tensorrt})
    dense = builder.dense("prefill")
    assert opset(dense) == expected
    weights = onnx.load(dense).graph.initializer
    kinds = {w.data_type for w in weights if len(w.dims) == 2}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    assert builder.dense("prefill") == dense  # the second time from the cache
    if expected == 18:
        return
    step = builder.dense("decode")
    assert step.name == "model_decode.onnx"
    assert opset(step) == expected
    assert any("past" in value.name for value in onnx.load(step).graph.input)


@pytest.mark.slow
def test_pairs_stay_two_products(builder_for, model, compression):
    builder = builder_for("tensorrt", "fp32")
    plan = {site.name: low_rank(8) for site in model.single}
    graph = builder.compressed("prefill", compression, plan=plan)
    inner = [w for w in onnx.load(graph).graph.initializer if 8 in w.dims]
    assert len(inner) >= 2 * len(plan)
    assert {w.data_type for w in inner} == {onnx.TensorProto.FLOAT}
    assert json.loads(metadata(graph)["autotune.ranks"]) == dict.fromkeys(plan, 8)


def test_inputs_are_those_of_the_phase(builder_for, model):
    builder = builder_for("onnxruntime-cpu", "fp32")
    whole, step = (load_file(builder.inputs(phase)) for phase in ("prefill", "decode"))
    workload = model.workload
    assert whole["input_ids"].shape == (workload.batch_size, workload.sequence_length)
    assert step["input_ids"].shape == (workload.batch_size, 1)
    assert step["attention_mask"].shape == (workload.batch_size, workload.past_length + 1)
    assert builder.inputs("prefill") == builder.inputs("prefill") != builder.inputs("decode")


def compressed_builds(workspace):
    """Whole ones and parts of them."""
    return {path.name for path in workspace.cache.iterdir() if "compressed" in path.name}


class AnyRank(Factors):
    """Random factors of every rank that is asked for, as of a factorizer gone wrong."""

    def errors(self, site):
        return torch.zeros(min(site.in_features, site.out_features) + 1)

    def plan(self, forms):
        for site, form in forms.items():
            yield (
                site,
                (
                    torch.randn(site.out_features, form.rank),
                    torch.randn(form.rank, site.in_features),
                ),
            )


@pytest.mark.parametrize(("backend", "dtype"), KINDS)
def test_a_build_that_fails_leaves_nothing_behind(
    builder_for, model, compression, workspace, backend, dtype
):
    builder = builder_for(backend, dtype)
    before = compressed_builds(workspace)
    with pytest.raises(UsageError, match="unknown precision 'nowhere'"):
        builder.compressed("prefill", compression, plan={Q: low_rank(8, precision="nowhere")})
    assert compressed_builds(workspace) == before


def test_a_build_that_fails_half_way_leaves_the_model_dense(builder_for, model, workspace):
    """The layers are in place by then; `the_model_stays_dense` looks whether they still are."""
    broken = Compression(
        model=model, factors=AnyRank(), key={"factors": "any"}, metric="weight", storage="fp32"
    )
    before = compressed_builds(workspace)
    with pytest.raises(ModelError, match="rank 64, no less than its 64 inputs"):
        builder_for("torch-eager", "fp32").compressed("prefill", broken, plan={Q: low_rank(64)})
    assert compressed_builds(workspace) == before
