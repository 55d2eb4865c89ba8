"""Commands that time layers do it as a tuning does: their timings have one fingerprint."""

import pytest
from click.testing import CliRunner

from autotune.cli import db, profile
from autotune.profiler.measure.looks import Looks
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedMachine
from autotune.tuning import machines
from autotune.tuning.network_timing import layer_looks, layer_policy
from autotune.tuning.options import MachineOptions


@pytest.mark.parametrize("hardware", ["cpu-like", "h200-like"])
def test_profile_and_drift_time_layers_as_a_tuning_does(tmp_path, monkeypatch, hardware):
    database, policies = tmp_path / "latency.sqlite", []

    def machine_here(options):
        machine = SimulatedMachine(simulated_hardware(hardware), options.database)
        run = machine.runner.run

        def watched(tasks, *args):
            policies.extend(task.policy for task in tasks)
            return run(tasks, *args)

        monkeypatch.setattr(machine.runner, "run", watched)
        return machine

    monkeypatch.setattr(machines, "local_machine", machine_here)
    shape = ("--tokens", "32", "--shape", "256x512", "--rank", "64")
    for command, given in ((profile.command, shape), (db.drift, ())):
        policies.clear()
        options = [*given, "--db", str(database)]
        done = CliRunner().invoke(command, options, standalone_mode=False)
        assert done.exception is None, done.output
        machine = machine_here(MachineOptions(database=database))
        whole = layer_policy(machine.spec.kind, machine.measure_seconds)
        looks = (
            layer_looks(machine.spec.kind, machine.threads)
            if command is profile.command
            else Looks()
        )
        assert set(policies) == {looks.policy(whole)}
