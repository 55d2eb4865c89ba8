"""A executor that breaks its contract."""

import pytest

from autotune.farm.local import LocalExecutor
from autotune.profiler.measure.tasks import Outcome
from autotune.testing.suites.executor import ExecutorSuite


class Forgetful(LocalExecutor):
    def run(self, shard):
        for i, _ in enumerate(shard.tasks[1:]):
            yield Outcome(index=i, error="ValueError: lost")


class TestForgetful(ExecutorSuite):
    @pytest.fixture
    def executor(self):
        return Forgetful()
