"""Unsettled points are measured again, in a bounded time, until a pass settles none."""

from contextlib import contextmanager

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.core.progress import no_progress
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import FORMS_PER_TASK, unsettled_points
from autotune.profiler.measure.settling import Settled, measure_wanted
from autotune.profiler.measure.timing import TimingPolicy
from autotune.testing.disturbance import Disturbance, Noise, SlowSpell
from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner

DENSE = LayerShape(tokens=256, in_features=512, out_features=512)
WANTED = [DENSE, *(DENSE.with_form(low_rank(16 * i)) for i in range(1, 9))]
POLICY = TimingPolicy(max_seconds=0.3)
CALM = Noise(sigma=0.002, tail_probability=0.0)
ALWAYS = 10**6


def busy(first_task, last_task):
    """Half of the calls take up to four times as long while these tasks are timed."""
    spells = tuple(
        SlowSpell(factor=factor, hits=0.3, first_task=first_task, last_task=last_task)
        for factor in (2.0, 1.5, 1.3)
    )
    return Disturbance(noise=CALM, spells=spells)


@pytest.fixture
def measure(tmp_path):
    """Measure what is wanted: what was found, the passes, what did not settle, and the tasks."""
    with LatencyDatabase(tmp_path / "latency.sqlite") as database:

        def run(disturbance, *, doubtful=None, policy=POLICY):
            runner = SimulatedRunner(simulated_hardware("cpu-like"), disturbance)
            fingerprint, passes = runner.fingerprint("fp32"), []

            @contextmanager
            def stage(again):
                passes.append(again)
                yield no_progress

            if doubtful is None:
                doubtful = unsettled_points(database, fingerprint, wanted=WANTED)
            found = measure_wanted(
                database,
                fingerprint,
                wanted=WANTED,
                doubtful=doubtful,
                runner=runner,
                policy=policy,
                stage=stage,
            )
            left = unsettled_points(database, fingerprint, wanted=WANTED)
            rows = database.measurements(fingerprint.id)
            assert Settled.of(rows, WANTED) == Settled(
                settled=len(WANTED) - len(left), total=len(WANTED)
            )
            return found, passes, left, runner.tasks_begun

        yield run


def test_in_quiet_everything_settles_at_once(measure):
    found, passes, left, _ = measure(Disturbance(noise=CALM))
    assert (found.measured, found.failed) == (len(WANTED), ())
    assert (passes, left) == ([False], [])
    found, passes, left, tasks = measure(Disturbance(noise=CALM))
    assert (found.measured, passes, left, tasks) == (0, [], [], 0)


def test_what_a_neighbour_hit_is_measured_again_in_the_same_run(measure):
    """The neighbour leaves after the first pass."""
    found, passes, left, _ = measure(busy(0, len(WANTED) // FORMS_PER_TASK - 1))
    assert found.measured == len(WANTED)
    assert (passes, left) == ([False, True], [])


def test_what_the_time_is_too_short_for_is_not_repeated(measure):
    """A layer so large that its windows do not fit settles in no number of passes."""
    hurried = TimingPolicy(max_seconds=1e-6)
    _, passes, left, _ = measure(Disturbance(noise=CALM), policy=hurried)
    assert passes == [False]
    assert left
    _, passes, left, _ = measure(Disturbance(noise=CALM))  # in a later run, with more time
    assert (passes, left) == ([False], [])


def test_a_neighbour_that_stays_costs_at_most_one_more_pass(measure):
    _, passes, left, tasks = measure(busy(0, ALWAYS))
    assert len(left) >= len(WANTED) // 2
    assert passes == [False, True]
    assert tasks <= 2 * (len(WANTED) // FORMS_PER_TASK)
    _, passes, still, _ = measure(busy(0, ALWAYS))  # and where nothing is new, none
    assert passes == [False]
    assert len(still) <= len(left)


def test_a_later_run_in_quiet_measures_what_is_left_and_only_that(measure):
    _, _, left, _ = measure(busy(0, ALWAYS))
    assert left
    found, _, settled, _ = measure(Disturbance(noise=CALM))
    assert (found.measured, settled) == (len(left), [])


def test_what_is_known_can_be_asked_for_again(measure):
    measure(Disturbance(noise=CALM))
    found, passes, left, _ = measure(Disturbance(noise=CALM), doubtful=WANTED)
    assert (found.measured, passes, left) == (len(WANTED), [False], [])
