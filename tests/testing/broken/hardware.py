"""A hardware that breaks its contract."""

import random

import pytest

from autotune.testing.hardware import SimulatedHardware, simulated_hardware
from autotune.testing.suites.hardware import HardwareSuite


class Moody(SimulatedHardware):
    def layer_latency_s(self, shape):
        return random.random()


class TestMoody(HardwareSuite):
    @pytest.fixture
    def make_hardware(self):
        return lambda: Moody(**vars(simulated_hardware("cpu-like")))
