"""The sites of a running network are found under the names that a backend gives their nodes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from autotune.profiler.measure.nodes import profile_sites

WIDTH = 64


@pytest.fixture
def network(tmp_path):
    """`first` is fused with its activation (as in OPT), `pair` has two nodes, `last` a bias."""
    weights = np.random.default_rng(0).standard_normal((5, WIDTH, WIDTH), np.float32) / 8
    held = [numpy_helper.from_array(each, f"w{i}") for i, each in enumerate(weights)]
    held.append(numpy_helper.from_array(weights[0, 0], "b"))
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b"], ["t0"], name="first"),
        helper.make_node("Relu", ["t0"], ["t1"], name="act"),
        helper.make_node("MatMul", ["t1", "w1"], ["t2"], name="pair.down"),
        helper.make_node("MatMul", ["t2", "w2"], ["t3"], name="pair"),
        helper.make_node("MatMul", ["t3", "w3"], ["t4"], name="last"),
        helper.make_node("Add", ["t4", "b"], ["y"], name="bias"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, WIDTH]) for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], held)
    build, inputs = tmp_path / "model.onnx", tmp_path / "inputs.safetensors"
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), build)
    save_file({"x": np.ones((8, WIDTH), np.float32)}, inputs)
    return build, inputs


def test_every_site_has_the_seconds_of_its_nodes(network):
    found = profile_sites(*network, threads=1, sites=["first", "pair", "last"])
    assert set(found.sites_s) == {"first", "pair", "last"}
    assert all(0 < seconds < found.total_s for seconds in found.sites_s.values())
    assert sum(found.sites_s.values()) <= found.total_s * (1 + 1e-9)


def test_openvino_names_a_product_after_its_bias(network):
    """It makes one node of all products before `last`, whose seconds belong to no single site."""
    found = profile_sites(*network, threads=1, sites=["last"], backend="openvino-cpu")
    assert 0 < found.sites_s["last"] < found.total_s
    assert profile_sites(*network, threads=1, sites=["first"], backend="openvino-cpu") is None


def test_a_site_without_a_node_is_no_error(network):
    """The caller times layers beside the network instead."""
    assert profile_sites(*network, threads=1, sites=["first", "elsewhere"]) is None
