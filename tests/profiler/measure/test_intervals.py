"""Intervals hold the truth as often as they say, also where values do not stand alone."""

import random
import statistics

import pytest
from scipy import stats

from autotune.profiler.measure.intervals import (
    grouped_interval,
    median_interval,
    pooled,
    student_t,
    widened,
)


def spells(draw, *, count, length, slow):
    """Windows of ten values around 1; a burst of other work slows `length` windows in a row."""
    windows = []
    while len(windows) < count:
        level = 1.0 + (slow if draw.random() < 0.5 else 0.0)
        windows += [[level + draw.gauss(0, 0.01) for _ in range(10)] for _ in range(length)]
    return windows[:count]


class TestGroupedInterval:
    def test_holds_where_windows_come_in_spells(self):
        """The truth is the long run's median; the values' own scatter alone promises too much."""
        held = alone = 0
        for seed in range(200):
            draw = random.Random(seed)
            # Levels of spells scatter around 1, as the ratio of two products on a busy machine.
            levels = [draw.gauss(1.0, 0.02) for _ in range(8)]
            windows = [[level + draw.gauss(0, 0.01) for _ in range(10)] for level in levels]
            low, high = grouped_interval(windows)
            held += low <= 1.0 <= high
            low, high = median_interval([value for window in windows for value in window])
            alone += low <= 1.0 <= high
        assert held >= 0.9 * 200
        assert alone < 0.8 * 200

    def test_long_spells_are_seen_among_many_windows(self):
        """Forty windows in five spells are five values, not forty."""
        draw = random.Random(0)
        windows = spells(draw, count=40, length=8, slow=0.3)
        low, high = grouped_interval(windows)
        assert high - low > 0.1

    def test_independent_values_are_not_punished(self):
        draw = random.Random(1)
        windows = [[draw.gauss(1.0, 0.01) for _ in range(10)] for _ in range(40)]
        narrow = median_interval([value for window in windows for value in window])
        low, high = grouped_interval(windows)
        assert high - low < 2 * (narrow[1] - narrow[0])

    def test_one_group_is_its_own_interval(self):
        values = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
        assert grouped_interval([values]) == median_interval(values)


class TestPooled:
    @pytest.mark.parametrize("count", [2, 3, 6])
    def test_holds_where_the_parts_hold(self, count):
        held = 0
        for seed in range(400):
            draw = random.Random(seed)
            sds = [draw.uniform(0.005, 0.03) for _ in range(count)]
            values = [draw.gauss(0.8, sd) for sd in sds]
            mean, half = pooled(values, [1.96 * sd for sd in sds])
            held += abs(mean - 0.8) <= half
        assert held >= 0.93 * 400

    def test_measurements_that_contradict_each_other_widen_it(self):
        _, agree = pooled([0.80, 0.80], [0.01, 0.01])
        mean, apart = pooled([0.75, 0.85], [0.01, 0.01])
        assert mean == pytest.approx(0.80)
        assert apart > 4 * agree

    def test_the_narrow_one_counts_more(self):
        mean, half = pooled([0.80, 0.82], [0.001, 0.05])
        assert mean == pytest.approx(0.80, abs=1e-4)
        assert half <= 0.0011


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 7, 20, 100])
def test_student_t_is_near_the_quantile(freedom):
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.04)


def test_an_interval_is_widened_by_an_independent_error():
    assert widened(1.0, (0.97, 1.03), by=0.04) == pytest.approx((0.95, 1.05))
    assert widened(0.5, (0.4, 0.7), by=0.0) == pytest.approx((0.4, 0.7))


def test_a_lower_end_stays_positive():
    low, high = widened(0.5, (0.4, 0.6), by=1.0)
    assert 0 < low < 0.5 < high
    assert statistics.geometric_mean((low, high)) == pytest.approx(0.5)
