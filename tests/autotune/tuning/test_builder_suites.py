"""The suite for every builder, each with what runs its builds on a processor."""

import shutil
from functools import partial

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from autotune.compress.checkpoint import load_for_timing
from autotune.profiler.backends.openvino_cpu import open_model
from autotune.testing.example_tuning import EXAMPLE_PLAN, example_workspace
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.testing.suites.builder import BuilderSuite
from autotune.tuning.builders import BUILDERS, CheckpointBuilder, make_builder
from autotune.tuning.graph_builders import (
    EngineOnnxBuilder,
    OnnxBuilder,
    OpenVinoBuilder,
    TypedOnnxBuilder,
)
from tests.autotune.tuning.test_builders import machine_of

pytestmark = pytest.mark.duration(80)


class RealBuilderSuite(BuilderSuite):
    """Of the builder `kind`, which `backend` names in `dtype`."""

    kind = None
    backend = ""
    dtype = "fp32"

    @classmethod
    def made(cls, model, workspace):
        builder = make_builder(model, machine_of(cls.backend, cls.dtype), workspace=workspace)
        assert type(builder) is cls.kind
        return builder

    @pytest.fixture
    def make_builder(self, model):
        return partial(self.made, model)


class GraphSuite(RealBuilderSuite):
    """Builds are ONNX graphs, which onnxruntime runs.

    What all tests need is built once a class, since tracing takes nearly all of the time; only
    where a build fails, none of the plan may be there before.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def dense_builds(cls, model, tmp_path_factory):
        folder = tmp_path_factory.mktemp("dense") / "out"
        with example_workspace(folder) as (workspace, _):
            builder = cls.made(model, workspace)
            for phase in ("prefill", "decode"):
                builder.dense(phase)
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def all_builds(cls, model, compression, dense_builds, tmp_path_factory):
        folder = tmp_path_factory.mktemp("all") / "out"
        shutil.copytree(dense_builds, folder)
        with example_workspace(folder) as (workspace, _):
            builder = cls.made(model, workspace)
            for phase in ("prefill", "decode"):
                builder.compressed(phase, compression, plan=EXAMPLE_PLAN)
        return folder

    @pytest.fixture
    def workspace(self, request, tmp_path):
        kept = "dense_builds" if "fails" in request.node.name else "all_builds"
        shutil.copytree(request.getfixturevalue(kept), tmp_path / "out")
        with example_workspace(tmp_path / "out") as (workspace, _):
            yield workspace

    def outputs(self, build, inputs, *, phase):
        assert build.name == {"prefill": "model.onnx", "decode": "model_decode.onnx"}[phase]
        session = onnxruntime.InferenceSession(str(build))
        fed = {name: tensor.numpy() for name, tensor in load_file(inputs).items()}
        kinds = {each.name: each.type for each in session.get_inputs()}
        for name, value in fed.items():
            if kinds[name] == "tensor(float16)":
                fed[name] = value.astype("float16")
        return torch.from_numpy(session.run(None, fed)[0])


class TestCheckpoint(RealBuilderSuite):
    kind = CheckpointBuilder
    backend = "torch-eager"

    @torch.no_grad()
    def outputs(self, build, inputs, *, phase):
        """Of the very pass that is timed."""
        found = load_for_timing(build, inputs, device="cpu").run()
        return found[0] if phase == "decode" else found.logits


@pytest.mark.slow
class TestOnnx(GraphSuite):
    kind = OnnxBuilder
    backend = "onnxruntime-cpu"


@pytest.mark.slow
class TestOpenVino(GraphSuite):
    """The graphs of TestOnnx, run in OpenVINO."""

    kind = OpenVinoBuilder
    backend = "openvino-cpu"

    def outputs(self, build, inputs, *, phase):
        fed = {name: tensor.numpy() for name, tensor in load_file(inputs).items()}
        return torch.from_numpy(next(iter(open_model(build, 1)(fed).values())))


@pytest.mark.slow
class TestTypedOnnx(GraphSuite):
    kind = TypedOnnxBuilder
    backend = "onnxruntime-cuda"
    dtype = "fp16"
    tolerance = 5e-3


@pytest.mark.slow
class TestEngineOnnx(GraphSuite):
    """It adds but an opset to the builder of TestTypedOnnx, which keeps the cache."""

    kind = EngineOnnxBuilder
    backend = "tensorrt"
    test_what_is_built_is_reused = None
    test_the_key_names_the_cache_entry = None
    test_a_dense_site_is_no_part_of_a_plan = None
    test_a_build_that_fails_leaves_nothing_behind = None


class TestSimulated(BuilderSuite):
    uses_factors = False

    @pytest.fixture
    def make_builder(self, model, tmp_path):
        machine = SimulatedMachine(simulated_hardware("cpu-like"), tmp_path / "latency.sqlite")
        return lambda workspace: SimulatedBuilder(model, machine, workspace=workspace)


def test_every_builder_runs_the_suite():
    real = {
        each.kind
        for each in (TestCheckpoint, TestOnnx, TestOpenVino, TestTypedOnnx, TestEngineOnnx)
    }
    assert {BUILDERS.load(name) for name in BUILDERS} == real
