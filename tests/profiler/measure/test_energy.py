"""Energy of a call, by a counter that moves in steps."""

import contextlib
import dataclasses
import time

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.health import Watch
from autotune.profiler.backends.base import TimedLayer
from autotune.profiler.measure import worker
from autotune.profiler.measure.energy import Energy, energy_of
from autotune.profiler.measure.tasks import TimingTask, layer_task
from autotune.profiler.measure.timing import TimingPolicy
from autotune.profiler.measure.worker import run_task
from autotune.testing.backend import SimulatedBackend
from autotune.testing.hardware import simulated_hardware

POWER_W, STEP_S = 200.0, 0.02


def counted_j():
    """Of a device that always draws the same; the counter moves in steps."""
    return POWER_W * STEP_S * (time.perf_counter() // STEP_S)


class Runner:
    """Takes a millisecond or more, as the machine has it."""

    def __init__(self):
        self.calls, self.seconds = 0, 0.0

    def __call__(self):
        started = time.perf_counter()
        time.sleep(1e-3)
        self.calls += 1
        self.seconds += time.perf_counter() - started


def test_energy_of_a_call_and_power():
    runner = Runner()
    found = energy_of(runner, seconds=0.3, counted_j=counted_j)
    assert found.power_w == pytest.approx(POWER_W, rel=0.2)
    assert found.energy_j == pytest.approx(POWER_W * runner.seconds / runner.calls, rel=0.3)


@pytest.mark.parametrize("counted", [lambda: None, lambda: 7.0])
def test_a_counter_that_gives_nothing_gives_no_energy(counted):
    assert energy_of(Runner(), seconds=0.02, counted_j=counted) is None


class CopiesBackend(SimulatedBackend):
    """A call of the dense layer runs four copies, one of a pair two."""

    def layer(self, shape, threads):
        return TimedLayer(run=super().layer(shape, threads).run, copies=2 if shape.rank else 4)


def test_energy_is_of_one_layer_of_a_call(monkeypatch):
    """By a known energy of a call: what is tested is whose it is."""
    backend = CopiesBackend(simulated_hardware("h200-like"))
    dense = LayerShape(tokens=16, in_features=64, out_features=96)
    policy = TimingPolicy(max_seconds=0.1, energy_seconds=0.2)
    of_call = Energy(energy_j=4.0, power_w=POWER_W)
    monkeypatch.setattr(worker, "energy_of", lambda runner, *, seconds, counted_j: of_call)

    def timed(policy):
        task = layer_task(dense, [low_rank(8)], policy=policy)
        again = TimingTask.from_json(task.to_json())
        assert again == task
        watching = contextlib.nullcontext(Watch())
        clock = backend.timeline.clock
        return run_task(backend, again, threads=1, clock=clock, watching=lambda kind: watching)[0]

    timing = timed(policy)
    assert timing.energies_j == (1.0, 2.0)
    assert timing.powers_w == (POWER_W, POWER_W)
    assert timed(dataclasses.replace(policy, energy_seconds=0.0)).energies_j == ()
