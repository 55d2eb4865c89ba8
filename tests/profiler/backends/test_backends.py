"""The suite for every backend, and what is particular to some."""

import dataclasses
import re
import subprocess
import sys
import warnings

import numpy as np
import onnxruntime
import pytest

from autotune.core.errors import DeviceMissingError, UsageError
from autotune.core.forms import low_rank, parse_form
from autotune.core.layers import LayerShape
from autotune.profiler.backends import BACKENDS, base, make_backend, require_backend
from autotune.profiler.backends.base import copy_count, rotation_count
from autotune.profiler.backends.onnx_layers import layer_model
from autotune.profiler.measure.tasks import layer_task
from autotune.profiler.measure.timing import TimingPolicy
from autotune.profiler.measure.worker import run_task
from autotune.testing.backend import SimulatedBackend
from autotune.testing.hardware import simulated_hardware
from autotune.testing.shapes import at_rank
from autotune.testing.suites.backend import BackendSuite

SHAPE = LayerShape(tokens=16, in_features=64, out_features=96)


# Every backend on every kind of device it runs on.
PLACES = [
    pytest.param(
        (name, kind), id=f"{name}-{kind}", marks=[pytest.mark.gpu] if kind == "cuda" else []
    )
    for name in sorted(BACKENDS)
    for kind in make_backend(name).device_kinds
]


class TestBackends(BackendSuite):
    @pytest.fixture(params=PLACES)
    def backend(self, request):
        return make_backend(*request.param)


class TestSimulatedBackend(BackendSuite):
    @pytest.fixture(params=["cpu-like", "h200-like"])
    def backend(self, request):
        return SimulatedBackend(simulated_hardware(request.param))

    def time(self, backend, task):
        timeline = backend.timeline
        return run_task(backend, task, threads=1, clock=timeline.clock, watching=timeline.watch)[0]


TORCH = [
    pytest.param(
        (name, kind), id=f"{name}-{kind}", marks=[pytest.mark.gpu] if kind == "cuda" else []
    )
    for name, kind in [
        ("torch-eager", "cpu"),
        ("torch-compile", "cpu"),
        ("torch-eager", "cuda"),
        ("torch-compile", "cuda"),
        ("torch-cudagraph", "cuda"),
    ]
]


def executed(run, kind):
    """How many products a call executes on a CPU, or how many kernels on a GPU."""
    from torch.profiler import ProfilerActivity, profile

    chosen = ProfilerActivity.CPU if kind == "cpu" else ProfilerActivity.CUDA
    for _ in range(2):  # the first profile of a process may see nothing of a GPU
        with warnings.catch_warnings(action="ignore"), profile(activities=[chosen]) as seen:
            run()
    names = ("aten::mm", "aten::addmm") if kind == "cpu" else ("",)
    return sum(event.count for event in seen.key_averages() if event.key.startswith(names))


@pytest.mark.parametrize("place", TORCH)
@pytest.mark.parametrize("rank", [0, 8])
def test_every_product_is_computed_though_nobody_reads_it(place, rank):
    """A compiler that removes what has no consequence leaves nothing to time."""
    ready = make_backend(*place)
    if ready.missing():
        pytest.skip(ready.missing())
    shape = at_rank(dataclasses.replace(SHAPE, dtype=ready.dtypes[0]), rank)
    timed = ready.layer(shape, 1)
    timed.run()
    assert executed(timed.run, place[1]) >= timed.copies * (2 if rank else 1)


@pytest.mark.parametrize("form", ["rank=8:pivoted", "rank=8:int8-static", "dense:int8-static"])
def test_a_form_without_an_implementation_is_never_timed_as_another(form):
    backend = SimulatedBackend(simulated_hardware("cpu-like"))
    task = layer_task(SHAPE, [parse_form(form)], policy=TimingPolicy())
    with pytest.raises(ValueError, match=f"has no implementation of {form}"):
        run_task(backend, task, threads=1)


def test_the_onnx_layer_computes_the_product():
    model = layer_model(SHAPE.with_form(low_rank(8)), copies=2)
    import onnx
    from onnx import numpy_helper

    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    weights = {
        w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(model).graph.initializer
    }
    x = np.random.default_rng(0).standard_normal((16, 64), dtype=np.float32)
    outputs = onnxruntime.InferenceSession(model).run(None, {"x": x})
    assert len(outputs) == 2
    for copy, y in enumerate(outputs):
        assert np.allclose(y, x @ weights[f"w_h{copy}"] @ weights[f"w_y{copy}_0"], atol=1e-4)
    assert not np.allclose(outputs[0], outputs[1])


ROUNDED = {"int8-static": "QuantizeLinear", "int8-dynamic": "DynamicQuantizeLinear"}


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize(("rank", "roundings"), [(0, 1), (8, 2)])
def test_an_input_is_rounded_once_for_the_layers_that_share_it(
    tmp_path, precision, rank, roundings
):
    """As in a network; and once for each instance, which the runtime must not put together."""
    import onnx

    shape = LayerShape(tokens=16, in_features=64, out_features=48, parts=(16, 16, 16))
    form = parse_form(f"rank={rank}:{precision}" if rank else f"dense:{precision}")
    model = layer_model(shape.with_form(form), copies=3)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for graph in (onnx.load_from_string(model), onnx.load(tmp_path / "run.onnx")):
        operators = [node.op_type for node in graph.graph.node]
        # The runtime rounds a static latent in the product that makes it, and one in its own range
        # in the product that reads it.
        rounding = (ROUNDED[precision], "QLinearMatMul", "DynamicQuantizeMatMul")
        assert sum(operators.count(name) for name in rounding) == 3 * roundings


@pytest.mark.parametrize(("k", "n", "parts"), [(24, 64, ()), (64, 24, ()), (24, 64, (40, 24))])
def test_the_pivoted_onnx_layer_computes_fewer_products(k, n, parts):
    """An identity in one factor: the latent selects inputs, or is a part of the outputs."""
    import onnx
    from onnx import numpy_helper

    shape = LayerShape(tokens=16, in_features=k, out_features=n, parts=parts)
    model = layer_model(shape.with_form(low_rank(8, "pivoted")), copies=1)
    graph = onnx.load_from_string(model)
    onnx.checker.check_model(graph, full_check=True)
    held = {w.name: numpy_helper.to_array(w) for w in graph.graph.initializer}
    multiplied = [w.size for name, w in held.items() if name.startswith("w_")]
    assert sum(multiplied) == shape.with_form(low_rank(8, "pivoted")).parameters == 8 * (k + n - 8)
    x = np.random.default_rng(0).standard_normal((16, k), dtype=np.float32)
    outputs = onnxruntime.InferenceSession(model).run(None, {"x": x})
    assert [y.shape[1] for y in outputs] == list(shape.widths)
    assert np.linalg.matrix_rank(np.concatenate(outputs, 1), rtol=1e-4) == 8
    if k > n:
        latent = x @ held["w_h0"]
        both = np.concatenate([latent, latent @ held["w_y0_0_rest"]], 1)
        assert np.allclose(outputs[0], both[:, held["i_y0_0"]], atol=1e-4)


@pytest.mark.parametrize(("k", "n", "parts"), [(24, 64, ()), (64, 24, ()), (24, 64, (40, 24))])
def test_the_pivoted_torch_layer_has_the_rank_of_the_pair(k, n, parts):
    import torch

    from autotune.profiler.backends.torch_layers import layer_pass

    shape = LayerShape(tokens=16, in_features=k, out_features=n, parts=parts)
    run = layer_pass(shape.with_form(low_rank(8, "pivoted")), "cpu", copies=1, keeps_outputs=True)
    outputs = run()
    assert [y.shape[1] for y in outputs] == list(shape.widths)
    assert torch.linalg.matrix_rank(torch.cat(outputs, 1), rtol=1e-4) == 8


def test_a_graph_is_opened_without_a_change_of_the_callers_arithmetic(tmp_path):
    """In a process of its own: onnxruntime decides once, with the first session."""
    (tmp_path / "model.onnx").write_bytes(layer_model(SHAPE, copies=1))
    program = (
        "import pathlib, sys, numpy\n"
        "from autotune.profiler.backends.onnxruntime_cpu import open_model\n"
        "open_model(pathlib.Path(sys.argv[1]), 1)\n"
        "assert numpy.float64(5e-324) * 1.0 > 0.0\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "model.onnx")]
    subprocess.run(command, check=True)


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
    with pytest.raises(UsageError, match="onnxruntime-cpu needs a CPU"):
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
for _ in range(600):  # a thread on a busy machine starts late, and pins itself when it does
    own = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
    alone = {min(one) for one in own if len(one) == 1}
    if alone == before:
        break
    time.sleep(0.1)
assert len(before) == 1 or alone == before, own
"""
    subprocess.run([sys.executable, "-c", ask], check=True)


@pytest.fixture
def broken(monkeypatch):
    """Packages that are installed and cannot be imported."""

    def import_module(name):
        raise ImportError(f"lib{name}.so: cannot open shared object file")

    base._fault.cache_clear()
    monkeypatch.setattr(base, "import_module", import_module)
    yield
    base._fault.cache_clear()


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "torch-eager"])
def test_a_package_that_cannot_be_imported_is_named(broken, name):
    backend = make_backend(name, "cpu")
    package = backend.packages[0]
    says = rf"needs {package}, and {package} \S+ cannot be imported \(lib{package}\.so: cannot open"
    assert re.search(says, backend.missing())


@pytest.mark.gpu
def test_a_gpu_counts_energy():
    backend = make_backend("torch-cudagraph", "cuda")
    shape = dataclasses.replace(SHAPE, tokens=4096, in_features=4096, out_features=4096)
    shape = dataclasses.replace(shape, dtype="bf16")
    task = layer_task(shape, [low_rank(1024)], policy=TimingPolicy(energy_seconds=0.3))
    timing, _ = run_task(backend, task, threads=1)
    assert all(50.0 < power_w < 1500.0 for power_w in timing.powers_w)
    dense_j, pair_j = timing.energies_j
    assert 0.0 < pair_j < dense_j
