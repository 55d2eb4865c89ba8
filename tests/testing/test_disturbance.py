"""Disturbances do what they say, and the same again with the same seed."""

import itertools
import math
import random
import statistics

import pytest

from autotune.core.errors import UsageError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape, Site
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import measure_points
from autotune.profiler.measure.tasks import Subject, TimingTask, layer_task
from autotune.profiler.measure.timing import TimingPolicy
from autotune.testing.disturbance import (
    CALM,
    Disturbance,
    Drift,
    Fault,
    Noise,
    SlowSpell,
    random_disturbance,
)
from autotune.testing.hardware import simulated_hardware
from autotune.testing.network_file import SimulatedNetwork
from autotune.testing.runner import SimulatedRunner

HARDWARE = simulated_hardware("cpu-like")
DENSE = LayerShape(tokens=256, in_features=512, out_features=512)
PAIR = DENSE.with_form(low_rank(64))
TRUTH = HARDWARE.layer_latency_s(PAIR) / HARDWARE.layer_latency_s(DENSE)
POLICY = TimingPolicy()


def task(tokens=256):
    return layer_task(
        LayerShape(tokens=tokens, in_features=512, out_features=512), (low_rank(64),), policy=POLICY
    )


def outcomes(disturbance, seed=0, count=1):
    runner = SimulatedRunner(HARDWARE, disturbance, seed=seed)
    return list(runner.run([task()] * count))


def test_a_calm_machine_is_measured_exactly():
    (found,) = outcomes(CALM)
    assert found.timing.converged
    assert found.timing.windows == POLICY.min_windows
    assert found.timing.ratios == pytest.approx((1.0, TRUTH))
    assert found.timing.latencies_s[0] == pytest.approx(HARDWARE.layer_latency_s(DENSE))


def test_a_spell_adds_seconds_to_every_product():
    added_s = 1e-4
    (found,) = outcomes(
        Disturbance(noise=CALM.noise, spells=(SlowSpell(factor=1.0, added_s=added_s),))
    )
    dense_s, pair_s = HARDWARE.layer_latency_s(DENSE), HARDWARE.layer_latency_s(PAIR)
    assert found.timing.latencies_s == pytest.approx((dense_s + added_s, pair_s + 2 * added_s))


def test_the_same_seed_is_the_same_measurement():
    disturbance = Disturbance(
        noise=Noise(sigma=0.05),
        spells=(SlowSpell(start_s=1.0, length_s=0.5, hits=0.5),),
        drift=Drift(rate_per_s=1e-3),
        death_probability=0.2,
        hang_probability=0.1,
    )
    one, two, other = (outcomes(disturbance, seed, 12) for seed in (7, 7, 8))
    assert one == two
    assert one != other


def test_noise_is_log_normal_with_a_heavy_tail():
    draw = random.Random(0)
    plain = [math.log(Noise(sigma=0.1, tail_probability=0.0).draw(draw)) for _ in range(4000)]
    assert statistics.fmean(plain) == pytest.approx(0.0, abs=0.01)
    assert statistics.stdev(plain) == pytest.approx(0.1, rel=0.1)
    heavy = [Noise(sigma=0.1, tail_probability=0.05).draw(draw) for _ in range(4000)]
    assert statistics.median(heavy) == pytest.approx(1.0, abs=0.02)
    assert max(heavy) > 2.0 > max(math.exp(value) for value in plain)


def test_stated_intervals_cover_the_truth():
    hits = 0
    for seed in range(60):
        (found,) = outcomes(Disturbance(noise=Noise(sigma=0.05, tail_probability=0.02)), seed)
        hits += found.timing.ratio_lows[1] <= TRUTH <= found.timing.ratio_highs[1]
    assert hits >= 51  # of a nominal 95 %, less what it costs to stop once an interval is narrow


@pytest.mark.parametrize("factor", [1.3, 3.0])
def test_a_spell_slows_and_its_windows_are_set_aside(factor):
    """From the second window of the first task on, for two windows' time."""
    runner = SimulatedRunner(HARDWARE, CALM)
    (calm,) = runner.run([task()])
    window_s = (runner.now_s - 1.0) / (calm.timing.windows + 1)
    spell = SlowSpell(start_s=1.0 + 1.5 * window_s, length_s=2 * window_s * factor, factor=factor)
    slowed = SimulatedRunner(HARDWARE, Disturbance(noise=CALM.noise, spells=(spell,)))
    (found,) = slowed.run([task()])
    assert slowed.now_s > runner.now_s
    assert found.timing.disturbed_windows > 0
    assert found.timing.ratios[1] == pytest.approx(TRUTH, rel=0.01)
    assert found.timing.latencies_s[0] == pytest.approx(calm.timing.latencies_s[0], rel=0.01)


def test_a_spell_over_a_whole_task_slows_all_of_it_and_no_other():
    spell = SlowSpell(first_task=1, last_task=1, factor=2.0)
    found = outcomes(Disturbance(noise=CALM.noise, spells=(spell,)), count=3)
    seconds = [each.timing.latencies_s[0] for each in found]
    assert seconds[1] == pytest.approx(2 * seconds[0])
    assert seconds[2] == pytest.approx(seconds[0])
    assert found[1].timing.ratios[1] == pytest.approx(TRUTH)  # it slows both


def test_a_spell_that_hits_some_calls_widens_the_interval():
    """So more windows are measured, until the interval is narrow again and holds the truth."""
    spell = SlowSpell(hits=0.3, factor=2.0)
    found = [outcomes(Disturbance(spells=(spell,)), seed)[0].timing for seed in range(20)]
    assert sum(timing.windows for timing in found) > 2 * 20 * POLICY.min_windows
    assert all(timing.ratios[1] == pytest.approx(TRUTH, rel=0.05) for timing in found)


def test_a_device_that_reports_its_slowdown_is_not_measured_through_it():
    hot = SlowSpell(reason="thermal slowdown", factor=1.5)
    (found,) = outcomes(Disturbance(spells=(hot,)))
    assert found.error == ("MeasurementError: the device was slowed all the time: thermal slowdown")
    brief = SlowSpell(reason="thermal slowdown", factor=1.5, length_s=1.06)
    (found,) = outcomes(Disturbance(noise=CALM.noise, spells=(brief,)))
    assert found.timing.disturbed_windows >= 1
    assert found.timing.ratios[1] == pytest.approx(TRUTH)


def test_drift_moves_seconds_and_not_ratios():
    found = outcomes(Disturbance(noise=CALM.noise, drift=Drift(rate_per_s=0.02)), count=30)
    seconds = [each.timing.latencies_s[0] for each in found]
    assert all(b >= a * (1 - 1e-9) for a, b in itertools.pairwise(seconds))
    assert seconds[-1] / seconds[0] == pytest.approx(math.exp(0.2 - 0.02), rel=0.01)  # at the limit
    assert [each.timing.ratios[1] for each in found] == pytest.approx([TRUTH] * 30, rel=1e-3)


@pytest.mark.parametrize("after_s", [0.0, 1.001, 1e6])
def test_a_death_is_an_outcome_that_died(after_s):
    """At its start, in the middle, or as late as it can be."""
    found = outcomes(Disturbance(faults=(Fault(task=1, after_s=after_s),)), count=3)
    assert [each.died for each in found] == [False, True, False]
    assert found[1].timing is None
    assert "signal 9" in found[1].error


def test_a_death_at_a_moment_hits_whatever_is_timed_then():
    found = outcomes(Disturbance(faults=(Fault(at_s=3.0),)), count=6)
    assert sum(each.died for each in found) == 1
    assert 1 <= [each.died for each in found].index(True) <= 3


def test_random_deaths_come_as_often_as_asked():
    found = outcomes(Disturbance(death_probability=0.3), count=200)
    assert sum(each.died for each in found) == pytest.approx(60, abs=20)
    assert all(each.died or each.timing is not None for each in found)


def test_a_hang_ends_at_its_limit_and_is_no_death():
    runner = SimulatedRunner(HARDWARE, Disturbance(faults=(Fault(kind="hang", task=0),)))
    first, second = runner.run([task(), task()])
    assert first.error == "TimeoutError: no result within 64 s"
    assert not first.died
    assert second.error is None
    assert runner.now_s > 64


def test_an_error_of_the_backend_is_passed_on():
    fault = Fault(kind="error", task=0, message="RuntimeError: bad kernel")
    first, second = outcomes(Disturbance(faults=(fault,)), count=2)
    assert (first.error, first.died) == ("RuntimeError: bad kernel", False)
    assert second.error is None


def test_measuring_goes_on_after_deaths_as_on_a_real_machine(tmp_path):
    """The real loop over points tries dead ones again; one that always dies is a failed point."""
    points = [PAIR, LayerShape(tokens=64, in_features=256, out_features=256, form=low_rank(32))]
    runner = SimulatedRunner(HARDWARE, Disturbance(faults=(Fault(task=0),)))
    with LatencyDatabase(tmp_path / "latency.sqlite") as database:
        fingerprint = runner.fingerprint("fp32")
        assert measure_points(database, fingerprint, points=points, runner=runner) == []
        rows = database.measurements(fingerprint.id)
    assert {row.shape for row in rows} == {shape for p in points for shape in (p, p.dense)}
    assert runner.tasks_begun == 3
    always = SimulatedRunner(HARDWARE, Disturbance(death_probability=1.0))
    with LatencyDatabase(tmp_path / "other.sqlite") as database:
        failed = measure_points(database, fingerprint, points=points, runner=always)
    assert len(failed) == 4
    assert always.tasks_begun == 6


def test_networks_are_timed_by_their_description(tmp_path):
    sites = tuple(
        Site(name=f"b.{i}", in_features=512, out_features=512, tokens=64, block=i) for i in range(4)
    )
    plan = {"b.1": low_rank(64), "b.2": low_rank(128)}
    paths = [tmp_path / "dense", tmp_path / "compressed"]
    for path, each in zip(paths, ({}, plan), strict=True):
        SimulatedNetwork(sites=sites, plan=each).write(path)
    assert SimulatedNetwork.read(paths[1]) == SimulatedNetwork(sites=sites, plan=plan)
    asked = TimingTask(
        subjects=tuple(Subject(network=str(path), inputs="none") for path in paths), policy=POLICY
    )
    runner = SimulatedRunner(HARDWARE, CALM)
    used = []
    (found,) = runner.run([asked], used.append)
    truth = [runner.network_latency_s(sites, each) for each in ({}, plan)]
    assert found.timing.latencies_s == pytest.approx(truth)
    assert used
    assert all(0 < part <= 1 for part in used)


def test_a_file_that_is_no_network_is_an_error(tmp_path):
    (tmp_path / "text").write_text("{}")
    paths = (tmp_path / "none", tmp_path / "text")
    tasks = [
        TimingTask(subjects=(Subject(network=str(path), inputs="none"),), policy=POLICY)
        for path in paths
    ]
    missing, wrong = SimulatedRunner(HARDWARE).run(tasks)
    assert missing.error == f"ModelError: {paths[0]}: no such file"
    assert "is no simulated network" in wrong.error


def test_random_disturbances_are_replayed_from_their_seed():
    one, two, other = (random_disturbance(seed, horizon_s=100.0, deaths=2) for seed in (3, 3, 4))
    assert one == two != other
    assert len(one.spells) == 3
    assert all(0 <= spell.start_s <= 100 for spell in one.spells)
    assert all(0 <= fault.at_s <= 100 for fault in one.faults)


def test_mistakes_are_refused():
    with pytest.raises(UsageError, match="either task= or at_s="):
        Fault()
    with pytest.raises(UsageError, match="hits <= 1"):
        SlowSpell(hits=1.5)
    with pytest.raises(UsageError, match="at most 1 together"):
        Disturbance(death_probability=0.7, hang_probability=0.7)
