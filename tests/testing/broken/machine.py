"""A machine that breaks its contract."""

import pytest

from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.testing.suites.machine import MachineSuite


class Forgetful(SimulatedMachine):
    made = 0

    def __init__(self, folder):
        Forgetful.made += 1
        hardware = simulated_hardware("cpu-like", seed=self.made)
        super().__init__(hardware, folder / f"{self.made}.sqlite")

    def sources(self):
        return ["measured"]

    def compare(self, builds, inputs, *, final, advance):
        return super().compare(builds[::-1][:1], inputs, final=final, advance=advance)


class TestForgetful(MachineSuite):
    @pytest.fixture
    def make_machine(self, tmp_path):
        return lambda: Forgetful(tmp_path)

    def builder(self, model, machine, *, workspace):
        return SimulatedBuilder(model, machine, workspace=workspace)
