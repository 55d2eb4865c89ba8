"""Engines on a real GPU: built, loaded again, run; and refused when they are of another place."""

import numpy as np
import onnx
import pytest

from autotune.core.errors import EngineError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.profiler.backends.onnx_layers import layer_model
from autotune.profiler.engines.builder import build_engine, missing_parts
from autotune.profiler.engines.engine_process import EngineProcess

pytestmark = pytest.mark.gpu
SHAPE = LayerShape(tokens=16, in_features=64, out_features=96, form=low_rank(16), dtype="fp16")


def any_rows(text):
    """The layer for any number of rows."""
    model = onnx.load_from_string(text)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    lacks = missing_parts()
    if lacks:
        pytest.skip(lacks)
    folder = tmp_path_factory.mktemp("engine")
    (folder / "fixed.onnx").write_bytes(layer_model(SHAPE, 2, opset=17))
    onnx.save(any_rows(layer_model(SHAPE, 2, opset=17)), folder / "model.onnx")
    task = {"dtype": "fp16", "profiles": [{"x": [[1, 64], [16, 64], [16, 64]]}]}
    facts = build_engine(folder / "model.onnx", task, output=folder / "model.engine")
    return folder, task, facts


def test_an_engine_computes_what_its_graph_does(built):
    import onnxruntime

    folder, _, facts = built
    assert facts["output_types"] == {"fp16": facts["layers"]}
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    with EngineProcess() as engines:
        for rows in (1, 16):
            x = np.random.default_rng(0).standard_normal((rows, 64)).astype(np.float16)
            number = engines.load(folder / "model.engine", {"x": x})
            found = engines.outputs(number)
            for output, expected in zip(
                session.get_outputs(), session.run(None, {"x": x}), strict=True
            ):
                assert np.allclose(found[output.name], expected, atol=2e-2)
            assert 0 < engines.seconds(number) < 1


def test_the_same_engine_is_not_built_twice(built, monkeypatch):
    folder, task, facts = built
    monkeypatch.setattr("autotune.profiler.engines.builder._in_process", None)
    assert build_engine(folder / "model.onnx", task, output=folder / "again.engine") == facts
    assert (folder / "again.engine").read_bytes() == (folder / "model.engine").read_bytes()


def test_an_engine_of_another_place_is_refused(built, tmp_path):
    """What TensorRT checks first, its own mark and version, is in the first bytes."""
    raw = bytearray((built[0] / "model.engine").read_bytes())
    raw[:64] = bytes(64)
    (tmp_path / "other.engine").write_bytes(raw)
    with EngineProcess() as engines, pytest.raises(EngineError, match="bound to both"):
        engines.load(tmp_path / "other.engine", {"x": np.zeros((16, 64), dtype=np.float16)})


def test_a_profile_that_the_graph_cannot_have_is_named(built, tmp_path):
    folder, task, _ = built
    with pytest.raises(EngineError, match="export it with that size free"):
        build_engine(folder / "fixed.onnx", task, output=tmp_path / "model.engine")


def test_shapes_that_no_profile_admits_are_refused(built):
    with EngineProcess() as engines, pytest.raises(EngineError, match="no optimisation profile"):
        engines.load(built[0] / "model.engine", {"x": np.zeros((17, 64), dtype=np.float16)})
