"""The suite for everything that times tasks."""

import pytest

from autotune.devices.detect import require_device
from autotune.farm.base import FarmRunner
from autotune.farm.local import LocalExecutor, runner_here
from autotune.profiler.backends import make_backend
from autotune.testing.disturbance import CALM, Disturbance, SlowSpell
from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner
from autotune.testing.suites.task_runner import TaskRunnerSuite


class TestProcesses(TaskRunnerSuite):
    @pytest.fixture
    def runner(self):
        return runner_here(require_device("cpu"), make_backend("onnxruntime-cpu"), threads=1)


class TestFarmRunner(TaskRunnerSuite):
    @pytest.fixture
    def runner(self):
        with LocalExecutor() as executor:
            yield FarmRunner(executor=executor, device="cpu", backend="onnxruntime-cpu", threads=1)


class TestSimulated(TaskRunnerSuite):
    @pytest.fixture(params=[CALM, Disturbance(spells=(SlowSpell(start_s=1, length_s=2),))])
    def runner(self, request):
        return SimulatedRunner(simulated_hardware("cpu-like"), request.param)
