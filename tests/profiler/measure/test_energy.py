"""Energy of a call, by a counter that moves in steps."""

import pytest

from autotune.profiler.measure.energy import energy_of


class Device:
    """Draws 200 W while a call of 1 ms runs; its counter moves every 20 ms."""

    def __init__(self, *, moves=True):
        self.now_s, self.moves = 0.0, moves

    def run(self):
        self.now_s += 1e-3

    def counted_j(self):
        return 200.0 * (self.now_s // 0.02) * 0.02 if self.moves else 7.0


def test_energy_of_a_call_and_power():
    device = Device()
    found = energy_of(
        device.run, seconds=0.2, counted_j=device.counted_j, clock=lambda: device.now_s
    )
    assert found.energy_j == pytest.approx(0.2, rel=0.02)
    assert found.power_w == pytest.approx(200.0, rel=0.02)
    assert device.now_s < 0.3


@pytest.mark.parametrize("counted", [lambda: None, Device(moves=False).counted_j])
def test_a_counter_that_gives_nothing_gives_no_energy(counted):
    device = Device()
    found = energy_of(device.run, seconds=0.2, counted_j=counted, clock=lambda: device.now_s)
    assert found is None
    assert device.now_s < 2.0
