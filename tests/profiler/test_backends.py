"""One suite for every backend."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from autotune.core.errors import DeviceMissingError, UsageError
from autotune.core.layers import LayerShape
from autotune.profiler.backends import BACKENDS, make_backend, require_backend
from autotune.profiler.backends.base import copy_count, rotation_count
from autotune.profiler.backends.onnxruntime_cpu import layer_model, open_session
from autotune.profiler.measure.tasks import layer_task
from autotune.profiler.measure.timing import TimingPolicy
from autotune.profiler.measure.worker import run_task

SHAPE = LayerShape(tokens=16, in_features=64, out_features=96)
QUICK = TimingPolicy(max_seconds=0.2, min_windows=2, warmup_rounds=1)


# Every backend on every kind of device it runs on.
PLACES = [
    pytest.param(
        (name, kind), id=f"{name}-{kind}", marks=[pytest.mark.gpu] if kind == "cuda" else []
    )
    for name in sorted(BACKENDS)
    for kind in make_backend(name).device_kinds
]


@pytest.fixture(params=PLACES)
def backend(request):
    made = make_backend(*request.param)
    lacks = made.missing()
    if lacks:
        assert "needs" in lacks
        pytest.skip(lacks)
    return made


def test_names_versions_and_settings_go_into_a_fingerprint(backend):
    assert backend.missing() is None
    assert set(backend.versions()) == set(backend.packages)
    assert all(isinstance(v, str) for v in backend.settings().values())


@pytest.mark.parametrize("rank", [None, 8, 61])
def test_layers_run_dense_and_low_rank(backend, rank):
    timed = backend.layer(LayerShape(**{**SHAPE.__dict__, "rank": rank}), 1)
    assert timed.copies >= 1
    timed.run()


@pytest.mark.parametrize("rank", [None, 8])
def test_layers_that_share_their_input_run_too(backend, rank):
    shape = LayerShape(tokens=16, in_features=64, out_features=96, parts=(48, 32, 16), rank=rank)
    backend.layer(shape, 1).run()
    timing = run_task(backend, layer_task(shape.dense, (8,), QUICK), 1)[0]
    assert len(timing.latencies_s) == 2


def test_a_pair_is_timed_against_its_dense_layer(backend):
    timing = run_task(backend, layer_task(SHAPE, (8, 16), QUICK), 1)[0]
    assert len(timing.latencies_s) == 3
    assert timing.ratios[0] == 1.0
    assert all(t > 0 for t in timing.latencies_s)


def test_a_network_needs_its_file(backend, tmp_path):
    save_file({"x": np.ones((2, 2), dtype=np.float32)}, tmp_path / "in.safetensors")
    with pytest.raises(Exception, match=r"(?i)no such file|doesn't exist|loader|missing"):
        backend.network(tmp_path / "missing.onnx", tmp_path / "in.safetensors", 1)


def test_the_onnx_layer_computes_the_product():
    model = layer_model(LayerShape(**{**SHAPE.__dict__, "rank": 8}), copies=2)
    import onnx
    from onnx import numpy_helper

    weights = {
        w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(model).graph.initializer
    }
    x = np.random.default_rng(0).standard_normal((16, 64), dtype=np.float32)
    outputs = open_session(model, 1).run(None, {"x": x})
    assert len(outputs) == 2
    for copy, y in enumerate(outputs):
        assert np.allclose(y, x @ weights[f"w_h{copy}"] @ weights[f"w_y{copy}_0"], atol=1e-4)
    assert not np.allclose(outputs[0], outputs[1])


def test_copies_shrink_with_size():
    one = LayerShape(tokens=1, in_features=64, out_features=64)
    huge = LayerShape(tokens=4096, in_features=4096, out_features=4096)
    assert copy_count(one) == 8
    assert copy_count(huge) == 1


def test_copies_rotate_past_the_cache():
    for tokens, size in ((1, 4096), (1, 768), (8192, 768), (512, 2048)):
        shape = LayerShape(tokens=tokens, in_features=size, out_features=size, dtype="bf16")
        copies = rotation_count(shape, 50e6)
        moved = 2 * (size * size + 2 * tokens * size)
        assert (copies - 1) * moved >= 50e6 or copies == 256
        assert copies >= 2


def test_a_backend_without_its_device_says_so():
    lacks = make_backend("torch-cudagraph").missing()
    assert lacks is None or "needs an NVIDIA GPU" in lacks


def test_unknown_backends_and_wrong_devices_are_refused():
    with pytest.raises(UsageError, match="known are onnxruntime-cpu"):
        make_backend("tensorflow")
    with pytest.raises(UsageError, match="runs on cpu only"):
        require_backend("ort", "cuda")


def test_a_backend_without_its_parts_says_what_to_install(monkeypatch):
    backend = make_backend("onnxruntime-cpu")
    monkeypatch.setattr(type(backend), "versions", lambda self: {})
    assert "pip install onnxruntime" in (backend.missing() or "")
    with pytest.raises(DeviceMissingError, match="pip install"):
        require_backend("onnxruntime-cpu", "cpu")


def test_threads_get_processors_of_their_own_where_they_take_all():
    """In a process of its own: a pin stays."""
    ask = """
import os
import time
from autotune.profiler.backends import make_backend
from autotune.core.layers import LayerShape
before = os.sched_getaffinity(0)
backend = make_backend("onnxruntime-cpu", "cpu")
backend.pin(len(before) + 1)
assert os.sched_getaffinity(0) == before  # not enough processors: left to the system
backend.pin(len(before))
timed = backend.layer(LayerShape(tokens=64, in_features=256, out_features=256), len(before))
timed.run()
for _ in range(100):  # a thread on a busy machine starts late, and pins itself when it does
    own = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
    alone = {min(one) for one in own if len(one) == 1}
    if alone == before:
        break
    time.sleep(0.1)
assert len(before) == 1 or alone == before, own
"""
    subprocess.run([sys.executable, "-c", ask], check=True)
