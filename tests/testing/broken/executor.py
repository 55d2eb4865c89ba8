"""A executor that breaks its contract."""

from dataclasses import replace

import pytest

from autotune.farm.local import LocalExecutor
from autotune.profiler.measure.tasks import Outcome
from autotune.testing.suites.executor import ExecutorSuite


class Forgetful(LocalExecutor):
    def run(self, shard):
        for i, _ in enumerate(shard.tasks[1:]):
            yield Outcome(index=i, error="ValueError: lost")

    def abilities(self, device, backend, *, dtype, forms):
        found = super().abilities(device, backend, dtype=dtype, forms=forms)
        return replace(found, forms=(*found.forms, "dense:int3"))


class TestForgetful(ExecutorSuite):
    @pytest.fixture
    def executor(self):
        return Forgetful()
