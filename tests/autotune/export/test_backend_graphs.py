"""Graphs that sentence-transformers opens without this package."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.compress.companions import BACKEND_IR, BACKEND_ONNX, MODULES
from autotune.core.files import files_of
from autotune.export.backend_graphs import add_backend_graphs
from autotune.profiler.backends.openvino_cpu import INFERENCE_DTYPE, inference_dtype, open_model


def graph_of(path, *, operator="Add", dtype=None):
    """x + x, or another operator of two inputs."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])
    node = helper.make_node(operator, ["x", "x"], ["y"], domain="" if operator == "Add" else "own")
    graph = helper.make_graph([node], "g", [value], [result])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    if dtype:
        helper.set_model_props(model, {INFERENCE_DTYPE: dtype})
    onnx.save(model, path)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MODULES).write_text("[]")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_both_backends_find_their_graph(tmp_path, folder, dtype):
    notes = []
    add_backend_graphs(graph_of(tmp_path / "model.onnx", dtype=dtype), folder, note=notes.append)
    assert notes == []
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for name in (BACKEND_ONNX, BACKEND_IR):
        assert inference_dtype(folder / name) == (dtype or "fp32")
        np.testing.assert_array_equal(open_model(folder / name, 1)({"x": x})["y"], 2 * x)


def test_weights_beside_the_graph_go_along(tmp_path, folder):
    graph = graph_of(tmp_path / "model.onnx")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    add_backend_graphs(graph, folder, note=lambda text: None)
    assert (folder / f"{BACKEND_ONNX}.data").read_bytes() == b"weights"


def test_other_checkpoints_stay_as_they_are(tmp_path, folder):
    (folder / MODULES).unlink()
    add_backend_graphs(graph_of(tmp_path / "model.onnx"), folder, note=lambda text: None)
    assert files_of(folder) == []


def test_a_graph_that_openvino_does_not_read_is_said(tmp_path, folder):
    notes = []
    graph = graph_of(tmp_path / "model.onnx", operator="Strange")
    add_backend_graphs(graph, folder, note=notes.append)
    assert (folder / BACKEND_ONNX).is_file()
    assert not (folder / BACKEND_IR).exists()
    assert "no graph for sentence-transformers' backend openvino: OpenVINO cannot read" in notes[0]
