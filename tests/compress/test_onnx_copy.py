"""A graph is copied with the files that hold its weights, under names of its own."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.onnx_copy import copy_graph
from autotune.core.errors import ModelError
from autotune.results.result import TuneResult
from tests.records import stored_record


def save_scaled(folder, factor, location="model.onnx.data"):
    """A graph that multiplies by `factor`, which lies in the file `location` beside it."""
    folder.mkdir()
    weights = numpy_helper.from_array(np.full((4, 4), factor, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "model.onnx"
    if location:
        outside = {"location": location, "size_threshold": 0}
        onnx.save(model, path, save_as_external_data=True, **outside)
        assert (folder / location).is_file()
    else:
        onnx.save(model, path)
    return path


def computed(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((4, 4), np.float32)})[0][0, 0]


def exported(source, target):
    result = TuneResult(folder=source.parent, record=stored_record())
    return result.export_onnx(target)


@pytest.mark.parametrize("copy", [copy_graph, exported])
def test_graphs_of_several_tunings_keep_their_weights_in_one_folder(tmp_path, copy):
    for factor, name in ((2.0, "two.onnx"), (3.0, "three.onnx")):
        source = save_scaled(tmp_path / name.partition(".")[0], factor)
        assert copy(source, tmp_path / "out" / name) == tmp_path / "out" / name
    assert computed(tmp_path / "out" / "two.onnx") == 2.0
    assert computed(tmp_path / "out" / "three.onnx") == 3.0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "three.onnx",
        "three.onnx.data",
        "two.onnx",
        "two.onnx.data",
    ]


@pytest.mark.parametrize("location", ["", "model.onnx.data", "weights.bin"])
@pytest.mark.parametrize("name", ["model.onnx", "other.onnx"])
def test_data_are_found_by_the_name_that_the_graph_has(tmp_path, location, name):
    source = save_scaled(tmp_path / "in", 5.0, location)
    target = copy_graph(source, tmp_path / "out" / name)
    assert computed(target) == 5.0
    assert len(list(target.parent.iterdir())) == (2 if location else 1)
    if name == source.name or not location:
        assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("place", ["../secret", "gone.data"])
def test_data_that_are_not_beside_the_graph_are_refused(tmp_path, place):
    source = save_scaled(tmp_path / "in", 5.0)
    (tmp_path / "secret").write_bytes(b"x")
    model = onnx.load(source, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = place
    source.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="no such file lies beside it"):
        copy_graph(source, tmp_path / "out" / "model.onnx")
    assert not (tmp_path / "out").exists()
    source.write_bytes(b"no graph")
    with pytest.raises(ModelError, match="is no ONNX graph"):
        copy_graph(source, tmp_path / "out" / "model.onnx")
