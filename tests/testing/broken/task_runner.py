"""A task runner that breaks its contract."""

import pytest

from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner
from autotune.testing.suites.task_runner import TaskRunnerSuite


class Giddy(SimulatedRunner):
    def run(self, tasks, progress=lambda fraction: None):
        for outcome in super().run(tasks, progress):
            if outcome.error:
                return
            yield outcome


class TestGiddy(TaskRunnerSuite):
    @pytest.fixture
    def runner(self):
        return Giddy(simulated_hardware("cpu-like"))
