"""The suite for every builder, each with what runs its builds on a processor."""

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from autotune.compress.decode import decode_step
from autotune.compress.loading import load_checkpoint
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.testing.suites.builder import BuilderSuite
from autotune.tuning.builders import (
    BUILDERS,
    CheckpointBuilder,
    EngineOnnxBuilder,
    OnnxBuilder,
    TypedOnnxBuilder,
    make_builder,
)
from tests.autotune.tuning.test_builders import machine_of


class RealBuilderSuite(BuilderSuite):
    """Of the builder `kind`, which `backend` names in `dtype`."""

    kind = None
    backend = ""
    dtype = "fp32"

    @pytest.fixture
    def make_builder(self, model):
        def make(workspace):
            builder = make_builder(model, machine_of(self.backend, self.dtype), workspace=workspace)
            assert type(builder) is self.kind
            return builder

        return make


class GraphSuite(RealBuilderSuite):
    """Builds are ONNX graphs, which onnxruntime runs."""

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
        model, fed = load_checkpoint(build).model, load_file(inputs)
        return decode_step(model, fed)[0] if phase == "decode" else model(**fed).logits


@pytest.mark.slow
class TestOnnx(GraphSuite):
    kind = OnnxBuilder
    backend = "onnxruntime-cpu"


@pytest.mark.slow
class TestTypedOnnx(GraphSuite):
    kind = TypedOnnxBuilder
    backend = "onnxruntime-cuda"
    dtype = "fp16"
    tolerance = 5e-3


@pytest.mark.slow
class TestEngineOnnx(GraphSuite):
    kind = EngineOnnxBuilder
    backend = "tensorrt"


class TestSimulated(BuilderSuite):
    uses_factors = False

    @pytest.fixture
    def make_builder(self, model, tmp_path):
        machine = SimulatedMachine(simulated_hardware("cpu-like"), tmp_path / "latency.sqlite")
        return lambda workspace: SimulatedBuilder(model, machine, workspace=workspace)


def test_every_builder_runs_the_suite():
    real = {each.kind for each in (TestCheckpoint, TestOnnx, TestTypedOnnx, TestEngineOnnx)}
    assert {BUILDERS.load(name) for name in BUILDERS} == real
