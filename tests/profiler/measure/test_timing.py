"""Timing on a simulated clock: what it reports can be computed by hand."""

import bisect
import itertools
import random
import statistics

import pytest
from scipy.stats import binom

from autotune.core.errors import MeasurementError
from autotune.profiler.measure.intervals import median_interval
from autotune.profiler.measure.timing import TimingPolicy, pooled_timing, time_interleaved


class Machine:
    """A clock that work advances; `slow` multiplies durations while it returns above 1."""

    def __init__(self, slow=lambda now: 1.0, noise=0.0, seed=0):
        self.now = 0.0
        self.slow = slow
        self.noise = noise
        self.random = random.Random(seed)
        self.calls = 0

    def clock(self):
        return self.now

    def work(self, seconds):
        def run():
            self.calls += 1
            factor = self.slow(self.now) * (1 + self.random.gauss(0, self.noise))
            self.now += seconds * max(factor, 0.1)

        return run


def test_a_calm_machine_is_measured_exactly_and_briefly():
    machine = Machine()
    timing = time_interleaved(
        [machine.work(2e-3), machine.work(1e-3)], TimingPolicy(), clock=machine.clock
    )
    assert timing.converged
    assert timing.disturbed_windows == 0
    assert timing.windows == TimingPolicy().min_windows
    assert timing.latencies_s == pytest.approx((2e-3, 1e-3))
    assert timing.ratios == pytest.approx((1.0, 0.5))


def test_short_calls_are_repeated_until_they_can_be_timed():
    machine = Machine()
    policy = TimingPolicy(min_call_s=1e-3)
    timing = time_interleaved([machine.work(1e-5), machine.work(2e-5)], policy, clock=machine.clock)
    assert machine.calls > 100 * timing.rounds
    assert timing.ratios[1] == pytest.approx(2.0)


def test_slow_windows_are_set_aside_and_done_again():
    # Ten times slower for 0.8 s of every 2 s: a mean would be far off.
    machine = Machine(slow=lambda now: 10.0 if 0.2 < (now % 2.0) < 1.0 else 1.0)
    policy = TimingPolicy(min_windows=60, max_seconds=10.0)
    timing = time_interleaved([machine.work(4e-3), machine.work(3e-3)], policy, clock=machine.clock)
    assert timing.disturbed_windows > 0
    assert timing.latencies_s == pytest.approx((4e-3, 3e-3), rel=1e-6)
    assert timing.rounds == (timing.windows - timing.disturbed_windows) * policy.rounds_per_window


def test_windows_of_a_slowed_device_are_done_again():
    """A hot GPU is as regular as a cool one: only its driver tells."""
    machine = Machine(slow=lambda now: 3.0 if now < 0.1 else 1.0)
    timing = time_interleaved(
        [machine.work(2e-3), machine.work(1e-3)],
        TimingPolicy(),
        clock=machine.clock,
        slowed=lambda: "thermal slowdown" if machine.now < 0.1 else None,
    )
    assert timing.latencies_s == pytest.approx((2e-3, 1e-3))
    assert timing.disturbed_windows >= 1
    assert timing.windows > timing.disturbed_windows


class Waiting:
    """A neighbour that takes `share` of the time of the process while `busy`; slows both alike."""

    def __init__(self, machine, busy, share=0.3):
        self.machine, self.busy, self.share = machine, busy, share
        self.total_s, self.seen_s = 0.0, 0.0

    def __call__(self):
        passed_s = self.machine.now - self.seen_s
        self.seen_s = self.machine.now
        if self.busy(self.machine.now):
            self.total_s += self.share * passed_s
        return self.total_s


def test_windows_in_which_the_process_waited_are_set_aside():
    """Where all windows are slow alike, only the scheduler knows of the neighbour."""
    machine = Machine(slow=lambda now: 1.3 if now < 0.5 else 1.0)
    timing = time_interleaved(
        [machine.work(2e-3), machine.work(1e-3)],
        TimingPolicy(min_windows=5),
        clock=machine.clock,
        waited_s=Waiting(machine, lambda now: now < 0.5),
    )
    assert timing.converged
    assert timing.disturbed_windows > 0
    assert timing.waiting == 0.0
    assert timing.latencies_s == pytest.approx((2e-3, 1e-3))


def test_slow_calls_are_timed_in_the_pauses_of_a_neighbour():
    """Bursts and pauses of 0.2 to 1.5 s: many pauses hold one round of 0.35 s, few hold three."""
    draw = random.Random(0)
    bursts = list(itertools.accumulate(draw.uniform(0.2, 1.5) for _ in range(1000)))
    machine, waited_s = Machine(), 0.0

    def work(seconds):
        def run():
            nonlocal waited_s
            left_s = seconds
            while left_s > 0:
                busy = bisect.bisect(bursts, machine.now) % 2 == 1
                machine.now += 1e-3
                waited_s += 0.5e-3 if busy else 0.0
                left_s -= 0.5e-3 if busy else 1e-3

        return run

    timing = time_interleaved(
        [work(0.2), work(0.15)],
        TimingPolicy(rounds_per_window=3, min_windows=6, max_seconds=20.0),
        clock=machine.clock,
        waited_s=lambda: waited_s,
    )
    calm = timing.windows - timing.disturbed_windows
    assert 6 <= calm < timing.windows / 2
    assert timing.rounds == calm, "a round is a window"
    assert timing.waiting <= TimingPolicy().waiting_above
    assert timing.ratios[1] == pytest.approx(0.75, rel=0.02)
    assert timing.half_width < 0.04


def test_what_is_called_first_takes_turns_where_a_round_is_a_window():
    """Here whatever is called first is 10 % slower."""
    machine = Machine()
    turns = iter(range(10**6))

    def work(seconds):
        def run():
            machine.now += seconds * (1.1 if next(turns) % 2 == 0 else 1.0)

        return run

    timing = time_interleaved(
        [work(0.2), work(0.2)],
        TimingPolicy(rounds_per_window=2, min_windows=10, warmup_rounds=1, max_seconds=60.0),
        clock=machine.clock,
    )
    assert timing.rounds == timing.windows
    assert timing.ratios[1] == pytest.approx(1.0, abs=0.1)
    assert timing.ratio_lows[1] < 1 < timing.ratio_highs[1]


def test_an_interval_says_how_much_of_the_time_others_had():
    machine = Machine(noise=0.001)
    timing = time_interleaved(
        [machine.work(2e-3), machine.work(1e-3)],
        TimingPolicy(max_seconds=1.0),
        clock=machine.clock,
        waited_s=Waiting(machine, lambda now: True),
    )
    assert not timing.converged
    assert timing.disturbed_windows == timing.windows
    assert timing.waiting == pytest.approx(0.3)
    assert timing.ratio_highs[1] - timing.ratio_lows[1] > 2 * 0.29 * 0.5


def test_the_interval_counts_what_differs_between_processes():
    def timed(process_sd):
        machine = Machine()
        policy = TimingPolicy(process_sd=process_sd)
        return time_interleaved(
            [machine.work(2e-3), machine.work(1e-3)], policy, clock=machine.clock
        )

    assert timed(0.0).half_width == pytest.approx(0.0, abs=1e-9)
    assert timed(0.01).half_width == pytest.approx(0.0196, rel=1e-3)
    assert timed(0.01).converged  # whether to go on sampling is asked without it


def test_processes_are_pooled():
    def timed(seed):
        machine = Machine(noise=0.02, seed=seed)
        policy = TimingPolicy(max_seconds=0.5, process_sd=0.003)
        work = [machine.work(2e-3), machine.work(1e-3)]
        return time_interleaved(work, policy, clock=machine.clock)

    found = [timed(seed) for seed in range(3)]
    together = pooled_timing(found)
    assert together.half_width < min(each.half_width for each in found)
    assert together.rounds == sum(each.rounds for each in found)
    assert together.ratio_lows[1] <= 0.5 <= together.ratio_highs[1]
    assert (together.ratio_lows[0], together.ratio_highs[0]) == (1.0, 1.0)
    assert pooled_timing(found[:1]) == found[0]


def test_a_device_that_stays_slowed_is_no_measurement():
    machine = Machine()
    with pytest.raises(MeasurementError, match="thermal slowdown"):
        time_interleaved(
            [machine.work(2e-3)],
            TimingPolicy(),
            clock=machine.clock,
            slowed=lambda: "thermal slowdown",
        )


def test_drift_cancels_in_the_ratio():
    machine = Machine(slow=lambda now: 1.0 + 0.05 * now)
    policy = TimingPolicy(max_seconds=2.0, target_relative_ci=1e-9, disturbed_above=9.0)
    timing = time_interleaved([machine.work(4e-3), machine.work(2e-3)], policy, clock=machine.clock)
    assert timing.ratios[1] == pytest.approx(0.5, rel=1e-3)


def test_the_time_cap_is_kept_and_admitted():
    machine = Machine(noise=0.5)
    policy = TimingPolicy(max_seconds=1.0, target_relative_ci=1e-6)
    timing = time_interleaved([machine.work(5e-3), machine.work(5e-3)], policy, clock=machine.clock)
    assert not timing.converged
    assert machine.now < 1.5


def test_the_stated_interval_covers_the_truth():
    hits = 0
    for seed in range(60):
        machine = Machine(noise=0.1, seed=seed)
        policy = TimingPolicy(max_seconds=1.0, disturbed_above=9.0)
        timing = time_interleaved(
            [machine.work(5e-3), machine.work(4e-3)], policy, clock=machine.clock
        )
        hits += timing.ratio_lows[1] <= 0.8 <= timing.ratio_highs[1]
    # Stopping as soon as the interval is narrow costs a little of the nominal 95 %.
    assert hits >= 51


@pytest.mark.parametrize("n", [6, 15, 50, 200])
def test_the_median_interval_has_its_binomial_coverage(n):
    ordered = list(range(n))
    low, high = median_interval(ordered)
    inside = binom.cdf(high, n, 0.5) - binom.cdf(low, n, 0.5)
    assert inside >= 0.94
    assert low <= statistics.median(ordered) <= high
