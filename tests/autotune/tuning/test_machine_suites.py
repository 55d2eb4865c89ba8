"""The suite for every machine: here, behind an executor, known by a table, and simulated."""

import pytest

from autotune.devices import detect
from autotune.farm.local import LocalExecutor
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.testing.suites.machine import MachineSuite
from autotune.tuning.machines import executor_machine, find_machine, local_machine
from autotune.tuning.options import MachineOptions


def options(device, tmp_path, **given):
    database = tmp_path / "latency.sqlite"
    return MachineOptions(device=device, database=database, measure_seconds=0.3, **given)


@pytest.mark.slow
@pytest.mark.duration(60)
class TestHere(MachineSuite):
    @pytest.fixture
    def make_machine(self, tmp_path):
        return lambda: local_machine(options("cpu", tmp_path, threads=1))


@pytest.mark.slow
class TestBehindAnExecutor(MachineSuite):
    """As on a farm, without the farm."""

    @pytest.fixture
    def make_machine(self, tmp_path):
        with LocalExecutor() as executor:
            yield lambda: executor_machine(executor, options("cpu", tmp_path, threads=1))


class TestPredicted(MachineSuite):
    @pytest.fixture
    def make_machine(self, tmp_path, monkeypatch):
        monkeypatch.setattr(detect, "gpu_names", tuple)
        return lambda: find_machine(options("a100", tmp_path))


class TestSimulated(MachineSuite):
    @pytest.fixture(params=["cpu-like", "h200-like"])
    def make_machine(self, request, tmp_path):
        hardware = simulated_hardware(request.param)
        return lambda: SimulatedMachine(hardware, tmp_path / "latency.sqlite")

    def builder(self, model, machine, *, workspace):
        return SimulatedBuilder(model, machine, workspace=workspace)
