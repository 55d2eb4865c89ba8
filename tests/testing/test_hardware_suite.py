"""The suite for simulated and for recorded hardware."""

import pytest

from autotune.testing.hardware import PRESETS, simulated_hardware
from autotune.testing.replay import RecordedHardware
from autotune.testing.suites.hardware import HardwareSuite
from tests.conftest import DATA


class TestSimulated(HardwareSuite):
    @pytest.fixture(params=sorted(PRESETS))
    def make_hardware(self, request):
        return lambda: simulated_hardware(request.param, seed=3)


class TestRecorded(HardwareSuite):
    @pytest.fixture
    def make_hardware(self):
        return lambda: RecordedHardware.from_export(DATA / "recorded_cpu.csv")
