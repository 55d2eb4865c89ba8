"""Exported graphs: parity at shapes never traced, and two products per factorized site."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers import optimizer

from autotune.compress.lowrank import low_rank_like, replace_modules
from autotune.compress.onnx_export import export_dense
from autotune.compress.onnx_rewrite import check_low_rank, rewrite_low_rank
from autotune.compress.sites import count_tokens, find_sites
from autotune.core.errors import ModelError
from autotune.core.types import Workload
from tests.conftest import TINY, random_layers, tiny_model, tiny_task

WORKLOAD = Workload(batch_size=2, sequence_length=8)
SHAPES = [(1, 1), (3, 7), (1, 33), (5, 2)]


# An export takes five seconds: two kinds are enough for the fast tier.
KINDS = [
    each if each in ("llama", "vit") else pytest.param(each, marks=pytest.mark.slow)
    for each in TINY
]


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    kind, model, task = request.param, tiny_model(request.param), tiny_task(request.param)
    model.requires_grad_(False)
    if kind == "gpt2":
        # As trained ones are. The exporter leaves out those of zeros, and onnxruntime's fusion for
        # this family reads one of every product.
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    tmp_path = tmp_path_factory.mktemp(kind)
    sites = count_tokens(
        model, find_sites(model), inputs=task.example_inputs(model, WORKLOAD)
    ).sites
    export_dense(
        model,
        task,
        sites=[site.name for site in sites],
        workload=WORKLOAD,
        path=tmp_path / "dense.onnx",
    )
    return kind, model, task, sites, tmp_path / "dense.onnx"


def assert_parity(path, model, task, kind):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, length in SHAPES:
        inputs = task.example_inputs(model, Workload(batch_size=batch, sequence_length=length))
        if "attention_mask" in inputs and length > 4:
            inputs["attention_mask"][0, 4:] = 0
        with torch.no_grad():
            expected = task.output(model, inputs).numpy()
        (got,) = session.run(None, {k: v.numpy() for k, v in inputs.items()})
        rows = slice(0, 4 if kind != "vit" else None)  # masked positions are nobody's output
        assert np.allclose(got[:, rows], expected[:, rows], atol=2e-5), np.abs(got - expected).max()


@pytest.mark.parametrize("structure", ["plain", "pivoted"])
def test_dense_and_low_rank_graphs_agree_with_torch(exported, tmp_path, structure):
    kind, model, task, sites, dense = exported
    assert_parity(dense, model, task, kind)
    layers = random_layers(model, sites, 16, structures=[structure])
    path = tmp_path / "low.onnx"
    rewrite_low_rank(
        dense, layers, path=path, metadata={"autotune.ranks": dict.fromkeys(layers, 16)}
    )
    replaced = replace_modules(model, layers)
    assert_parity(path, model, task, kind)
    replace_modules(model, replaced)
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    assert {p.key for p in loaded.metadata_props} == {"autotune.ranks"}
    products = [n.name for n in loaded.graph.node if n.op_type in ("MatMul", "Gemm")]
    for site in sites:
        assert products.count(site.name) == products.count(f"{site.name}.down") == 1

    # The optimiser of the runtime must not multiply the factors together either.
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    shapes = [tuple(w.dims) for w in optimised.graph.initializer]
    assert sum(16 in s for s in shapes) >= 2 * len(sites)


def test_a_missing_product_is_noticed(exported, tmp_path):
    _, model, _, sites, dense = exported
    site = sites[0]
    layer = low_rank_like(
        model.get_submodule(site.name),
        up=torch.randn(site.out_features, 8),
        down=torch.randn(8, site.in_features),
    )
    with pytest.raises(ModelError, match="not two matrix products"):
        check_low_rank(onnx.load(dense), {site.name: layer})


def test_fixed_sizes_are_kept_and_free_ones_named(exported):
    kind, *_, dense = exported
    (output,) = onnx.load(dense).graph.output
    dims = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
    last = 101 if kind in ("llama", "gpt2") else 64
    assert (dims[0], dims[-1]) == ("batch", last)
    assert dims[1] == ("sequence" if kind != "vit" else 17)


def test_no_path_of_this_machine_is_exported(exported):
    *_, dense = exported
    text = dense.read_bytes()
    assert b"site-packages" not in text
    assert b".py" not in text


def outputs_of(path, model, task):
    """What onnxruntime makes of a graph, and torch of the model; and the operators that it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".run.onnx"))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = task.example_inputs(model, Workload(batch_size=3, sequence_length=7))
    with torch.no_grad():
        expected = task.output(model, inputs).numpy()
    (found,) = session.run(None, {k: v.numpy() for k, v in inputs.items()})
    run = onnx.load(options.optimized_model_filepath)
    return found, expected, {node.op_type for node in run.graph.node}


def test_attention_is_one_operator_when_the_graph_is_run(exported, tmp_path):
    """It is written in a branch (onnx_attention.py), which the runtime dissolves."""
    _, model, task, _, dense = exported
    written = {node.op_type for node in onnx.load(dense).graph.node}
    assert "If" in written and "Attention" not in written
    (tmp_path / "dense.onnx").write_bytes(dense.read_bytes())
    _, _, run = outputs_of(tmp_path / "dense.onnx", model, task)
    assert "Attention" in run and "If" not in run


@pytest.mark.parametrize("rank", [None, 16])
def test_onnxruntime_quantizes_our_graphs(exported, tmp_path, rank):
    """With its defaults, as users try it."""
    _, model, task, sites, graph = exported
    layers = random_layers(model, sites, rank) if rank else {}
    if rank:
        graph = tmp_path / "low.onnx"
        rewrite_low_rank(exported[-1], layers, path=graph, metadata={})
    quantize_dynamic(graph, tmp_path / "quantized.onnx")
    replaced = replace_modules(model, layers)
    found, expected, run = outputs_of(tmp_path / "quantized.onnx", model, task)
    replace_modules(model, replaced)
    assert run & {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
    assert np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected)


def test_onnxruntime_s_transformer_optimizer_takes_our_graphs(exported, tmp_path):
    kind, model, task, _, dense = exported
    family = {"vit": "vit", "clip": "clip", "gpt2": "gpt2", "bert": "bert"}.get(kind, "gpt2")
    optimizer.optimize_model(str(dense), model_type=family).save_model_to_file(
        str(tmp_path / "optimized.onnx")
    )
    found, expected, _ = outputs_of(tmp_path / "optimized.onnx", model, task)
    assert np.allclose(found, expected, atol=1e-4)
