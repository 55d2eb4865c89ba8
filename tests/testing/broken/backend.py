"""A backend that breaks its contract."""

import pytest

from autotune.profiler.backends.base import TimedLayer
from autotune.testing.backend import SimulatedBackend
from autotune.testing.hardware import simulated_hardware
from autotune.testing.suites.backend import BackendSuite


class Careless(SimulatedBackend):
    def layer(self, shape, threads):
        return TimedLayer(run=super().layer(shape, threads).run, copies=99)


class TestCareless(BackendSuite):
    @pytest.fixture
    def backend(self):
        return Careless(simulated_hardware("cpu-like"))
