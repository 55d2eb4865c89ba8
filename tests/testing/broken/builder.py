"""A builder that breaks its contract."""

import pytest

from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedMachine
from autotune.testing.suites.builder import BuilderSuite
from autotune.tuning.builders import Builder


class Careless(Builder):
    def dense(self, phase):
        path = self.workspace.cache / "builds" / "dense"
        path.parent.mkdir(exist_ok=True)
        path.write_text(phase)
        return path

    def compressed(self, phase, compression, *, plan):
        path = self.dense(phase).with_name("-".join(plan))
        path.write_text("half a build")
        path.write_text(str(sorted(compression.layers(plan))))
        return path


class TestCareless(BuilderSuite):
    @pytest.fixture
    def make_builder(self, model, tmp_path):
        hardware = simulated_hardware("cpu-like")
        machine = SimulatedMachine(hardware, tmp_path / "latency.sqlite")
        return lambda workspace: Careless(model, machine, workspace=workspace)
