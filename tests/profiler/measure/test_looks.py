"""Several looks at a layer: one ratio, and an interval for a look at any other time."""

import dataclasses
import math
import random

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.profiler.measure.looks import Looks, together
from autotune.profiler.measure.points import measure_points
from autotune.profiler.measure.tasks import Outcome
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy
from autotune.testing.disturbance import CALM
from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner
from autotune.tuning.network_timing import layer_looks
from tests.profiler.points import FINGERPRINT

TWICE = Looks(count=2, seconds=2e-6, relative=0.01)
DENSE = [LayerShape(tokens=128, in_features=size, out_features=384) for size in (256, 384, 512)]
WANTED = [s for d in DENSE for s in (d, *(d.with_form(low_rank(r)) for r in (16, 32, 48, 64, 80)))]


def look(*ratios, latency_s=100e-6, width=0.01):
    """Of ratios whose intervals are ±`width` wide."""
    columns = (1.0, *ratios)
    return PairedTiming(
        latencies_s=tuple(latency_s for _ in columns),
        ratios=columns,
        ratio_lows=(1.0, *(ratio * (1 - width) for ratio in ratios)),
        ratio_highs=(1.0, *(ratio * (1 + width) for ratio in ratios)),
        rounds=30,
        windows=6,
        disturbed_windows=1,
        converged=True,
    )


def half(timing, index=1):
    return math.log(timing.ratio_highs[index] / timing.ratio_lows[index]) / 2


def test_one_look_keeps_its_own_interval():
    alone = look(0.5)
    assert together([[alone]], Looks(seconds=1.0, relative=1.0)) == [alone]


def test_two_looks_are_one_timing():
    (found,) = together([[look(0.50), look(0.52, latency_s=140e-6)]], TWICE)
    assert 0.50 < found.ratios[1] < 0.52
    assert found.ratio_lows[1] < 0.50
    assert found.ratio_highs[1] > 0.52
    assert found.latencies_s == pytest.approx((120e-6, 120e-6))
    assert (found.rounds, found.windows, found.disturbed_windows) == (60, 12, 2)
    assert (found.ratio_lows[0], found.ratio_highs[0]) == (1.0, 1.0)


def test_the_surer_look_weighs_more():
    (found,) = together([[look(0.5, width=0.01), look(0.6, width=0.3)]], TWICE)
    assert found.ratios[1] == pytest.approx(0.5, rel=0.03)


def test_looks_that_disagree_are_both_within_the_interval():
    (found,) = together([[look(0.19), look(0.40)]], TWICE)
    assert found.ratio_lows[1] < 0.19
    assert found.ratio_highs[1] > 0.40


def test_what_other_layers_show_widens_every_interval():
    calm = [look(0.5), look(0.5)]
    spells = [[look(0.3), look(0.4)]] * 20
    quiet, *_ = together([calm, *[calm] * 20], TWICE)
    noisy, *_ = together([calm, *spells], TWICE)
    assert half(noisy) > 3 * half(quiet)


def test_a_small_layer_is_less_sure_than_a_large_one():
    small, large = together(
        [[look(0.5, latency_s=10e-6)] * 2, [look(0.5, latency_s=1e-3)] * 2], TWICE
    )
    assert half(small) > 3 * half(large)


@pytest.mark.parametrize("latency_s", [1e-9, 6e-7, 1e-6])
def test_a_layer_of_less_than_the_usual_spread_has_an_interval_that_says_something(latency_s):
    """The database refused its row: an end of the interval was 1e20 and more."""
    (found,) = together([[look(0.5, latency_s=latency_s)] * 2], layer_looks("cpu", 2))
    assert 0.1 < found.ratio_lows[1] < 0.5 < found.ratio_highs[1] < 2.5


def test_the_wildest_looks_have_intervals_that_the_database_takes():
    """A factor of ten thousand between the looks at every layer."""
    wild = [[look(0.01, latency_s=1.0), look(100.0, latency_s=1.0)]] * 50
    for found in together(wild, layer_looks("cpu", 2)):
        assert 1e-6 < found.ratio_lows[1] < 0.01
        assert 100.0 < found.ratio_highs[1] < 1e6


def test_what_no_clock_gives_is_left_to_the_database():
    broken = dataclasses.replace(look(0.5), latencies_s=(0.0, math.nan))
    assert together([[look(0.5), broken]], TWICE) == [broken]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_look_at_another_time_lies_within_as_often_as_it_should(scale):
    """Whatever the true spread: of each task, all ratios move together."""
    draw, held = random.Random(0), []

    def seen(latency_s):
        moved = draw.gauss(0.0, scale * math.hypot(2e-6 / latency_s, 0.01))
        ratios = (0.3 * math.exp(moved + draw.gauss(0.0, 0.005)) for _ in range(4))
        return look(*ratios, latency_s=latency_s)

    for _ in range(40):
        sizes = [10 ** draw.uniform(-5, -3) for _ in range(20)]
        found = together([[seen(size), seen(size)] for size in sizes], TWICE)
        for size, timing in zip(sizes, found, strict=True):
            again = seen(size)
            ends = zip(timing.ratio_lows[1:], timing.ratio_highs[1:], strict=True)
            held += [
                low <= r <= high for r, (low, high) in zip(again.ratios[1:], ends, strict=True)
            ]
    assert 0.88 <= sum(held) / len(held) <= (1.0 if scale < 1 else 0.99)


def test_looks_share_time_and_precision():
    whole = TimingPolicy(max_seconds=2.0, target_relative_ci=0.02, min_windows=3)
    one = TWICE.policy(whole)
    assert one.max_seconds == 1.0
    assert one.target_relative_ci == pytest.approx(0.02 * math.sqrt(2))
    assert one.min_windows * 2 >= 3
    assert Looks().policy(whole) == whole


class Runner(SimulatedRunner):
    """Notes what it was asked for; `fails` says of which call and task there is no timing."""

    def __init__(self, fails=lambda call, index: False):
        super().__init__(simulated_hardware("cpu-like"), CALM)
        self.calls, self.fails = [], fails

    def run(self, tasks):
        self.calls.append([task.subjects for task in tasks])
        for outcome in super().run(tasks):
            if self.fails(len(self.calls), outcome.index):
                yield Outcome(index=outcome.index, error="no memory")
            else:
                yield outcome


def measure(database, runner):
    return measure_points(database, FINGERPRINT, points=WANTED, runner=runner, looks=TWICE)


def settled(database):
    return [row.converged for row in database.measurements(FINGERPRINT.id)]


def test_all_layers_have_a_look_before_the_next_begins(database):
    runner = Runner()
    assert measure(database, runner) == []
    first, second = runner.calls
    assert first == second
    assert settled(database) == [True] * len(WANTED)


def test_what_is_killed_in_between_keeps_the_first_look_unsettled(database):
    class KilledError(Exception):
        pass

    class Dying(Runner):
        def run(self, tasks):
            if self.calls:
                raise KilledError
            yield from super().run(tasks)

    with pytest.raises(KilledError):
        measure(database, Dying())
    assert settled(database) == [False] * len(WANTED)
    measure(database, Runner())
    assert settled(database) == [True] * len(WANTED)


def test_a_layer_that_fails_has_no_second_look(database):
    runner = Runner(fails=lambda call, index: index == 0)
    failed = measure(database, runner)
    first, second = runner.calls
    assert second == first[1:]
    assert {row.error for row in failed} == {"no memory"}
    rows = database.failures(FINGERPRINT.id)
    assert {row.shape for row in rows} <= {row.shape for row in failed}
    assert rows


def test_a_second_look_that_fails_leaves_the_first_unsettled(database):
    runner = Runner(fails=lambda call, index: (call, index) == (2, 0))
    assert measure(database, runner) == []
    assert database.failures(FINGERPRINT.id) == []
    assert 0 < settled(database).count(False) < len(WANTED)


def test_intervals_of_one_run_have_its_final_spread(database):
    """Stored as they come, and all of them anew in the end."""

    class Spell(Runner):
        def run(self, tasks):
            for outcome in super().run(tasks):
                timing = outcome.timing
                if len(self.calls) == 2 and outcome.index == len(tasks) - 1:
                    ratios = tuple(r if i == 0 else 3 * r for i, r in enumerate(timing.ratios))
                    timing = dataclasses.replace(
                        timing,
                        ratios=ratios,
                        ratio_lows=ratios,
                        ratio_highs=(1.0, *(1.01 * r for r in ratios[1:])),
                    )
                yield dataclasses.replace(outcome, timing=timing)

    def widths():
        rows = database.measurements(FINGERPRINT.id)
        return {r.shape: r.ratio_high / r.ratio_low for r in rows if r.shape.rank}

    measure(database, Runner())
    calm = widths()
    measure(database, Spell())
    assert all(width > calm[shape] for shape, width in widths().items())
