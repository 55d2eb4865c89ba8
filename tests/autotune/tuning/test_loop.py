"""The closed loop: what is measured again, what is learned, and which round is handed out.

Networks are timed by a machine that answers from a script; everything else is real.
"""

import dataclasses

import pytest

from autotune.core.forms import low_rank
from autotune.core.workload import Budget, Workload
from autotune.profiler.measure.points import plan_forms
from autotune.profiler.measure.timing import PairedTiming
from autotune.results.measured import Measured, MeasuredPass
from autotune.results.verdict import Verdict
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedMachine
from autotune.testing.tuning import example_errors, example_sites, simulated_tuning
from autotune.tuning import planned_layers
from autotune.tuning.corrections import corrected, surprise
from autotune.tuning.decisions import guessed
from autotune.tuning.loop import ClosedLoop
from autotune.tuning.rounds import Round, predicted_as_measured

WORKLOAD = Workload(batch_size=1, sequence_length=256)
LIMIT = 0.8
MET, UNDECIDED, MISSED = (0.78, 0.77, 0.79), (0.8, 0.78, 0.82), (0.85, 0.84, 0.86)


class ScriptedMachine(SimulatedMachine):
    """Times compressed networks by `script`: (ratio, low, high), or the truth where it is empty."""

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self.script = []
        self.compared = []

    def compare(self, builds, inputs, *, final, advance):
        self.compared.append((builds[1].name, final))
        if not self.script:
            return super().compare(builds, inputs, final=final, advance=advance)
        ratio, low, high = self.script.pop(0)
        return PairedTiming(
            latencies_s=(1.0, ratio),
            ratios=(1.0, ratio),
            ratio_lows=(1.0, low),
            ratio_highs=(1.0, high),
            rounds=9,
            windows=3,
            disturbed_windows=0,
            converged=True,
        )


def ends(spec, shape, **offered):
    """The dense layer, its least and its greatest rank: all others are guessed."""
    forms = plan_forms(spec, shape, **offered)
    return [forms[0], *forms[1:2], *forms[-1:]]


@pytest.fixture
def tuning(tmp_path, request, monkeypatch):
    if hasattr(request, "param"):
        monkeypatch.setattr(planned_layers, "plan_forms", request.param)
    sites = example_sites(WORKLOAD)
    machine = ScriptedMachine(simulated_hardware("cpu-like"), tmp_path / "latency.sqlite")
    with simulated_tuning(
        machine,
        tmp_path / "out",
        budget=Budget(latency=f"{LIMIT}x"),
        sites=sites,
        errors=example_errors(sites, machine.rank_multiple),
        workload=WORKLOAD,
    ) as found:
        yield found


def rounds_of(tuning, *limits):
    """A measured round for the plan of each limit, all with the predicted ratio as measured."""
    loop = tuning._loop
    found = []
    for limit in limits:
        budget = Budget(latency=f"{limit}x").limits()
        planner = dataclasses.replace(tuning.planner, budget=budget)
        allocation = planner.solve({}, margin=0.0)
        build = tuning.builder.compressed("prefill", None, plan=allocation.plan)
        found.append(
            Round(
                allocation=allocation,
                network=loop.planner.network,
                measured=predicted_as_measured(loop.planner.network, allocation.plan),
                builds={"prefill": build},
            )
        )
    return found


def measured(ratio, low, high):
    timed = MeasuredPass(
        name="prefill",
        count=1,
        latency_s=ratio,
        dense_latency_s=1.0,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
    )
    return Measured(passes=(timed,))


class TestConfirm:
    """What is handed out was measured afresh."""

    @pytest.mark.parametrize(
        ("script", "looks", "ratio", "verdict"),
        [
            ([MET], 1, 0.78, Verdict.MET),
            # Looks count together, by the inverse squares of their half widths.
            ([UNDECIDED, MET], 2, 0.784, Verdict.MET),
            ([UNDECIDED, UNDECIDED, (0.775, 0.77, 0.78)], 3, 0.7778, Verdict.MET),
            ([UNDECIDED, MISSED], 2, 0.84, Verdict.MISSED),
            # None decides, and there is no fourth.
            ([(0.8, 0.77, 0.83), (0.801, 0.79, 0.81), UNDECIDED], 3, 0.8007, Verdict.UNDECIDED),
        ],
    )
    def test_a_measurement_is_repeated_until_it_decides(
        self, tuning, script, looks, ratio, verdict
    ):
        rounds = rounds_of(tuning, 0.75)
        tuning.machine.script = list(script)
        final = tuning.confirm(rounds)
        assert [final for _, final in tuning.machine.compared] == [True] * looks
        assert tuning.machine.script == []
        assert final.judged.ratio == pytest.approx(ratio, abs=1e-4)
        assert tuning.verdict(final) is verdict
        assert final.allocation == rounds[0].allocation

    def test_a_measurement_that_decided_is_not_made_again(self, tuning):
        rounds = rounds_of(tuning, 0.75)
        tuning.machine.script = [UNDECIDED, MET]
        final = tuning.confirm(rounds)
        tuning.machine.script = [MISSED]
        assert tuning.confirm(rounds).measured == final.measured
        assert len(tuning.machine.compared) == 2

    def test_the_next_round_is_looked_at_when_the_first_misses(self, tuning):
        """Rounds that held are tried by their loss."""
        worse, better = rounds_of(tuning, 0.6, 0.75)
        assert better.allocation.loss < worse.allocation.loss
        tuning.machine.script = [MISSED, MET]
        final = tuning.confirm([worse, better])
        assert [name for name, _ in tuning.machine.compared] == [
            better.builds["prefill"].name,
            worse.builds["prefill"].name,
        ]
        assert final.allocation == worse.allocation
        assert tuning.verdict(final) is Verdict.MET

    def test_the_fastest_is_handed_out_when_all_miss(self, tuning):
        rounds = rounds_of(tuning, 0.6, 0.75)
        tuning.machine.script = [(0.84, 0.83, 0.85), MISSED]
        final = tuning.confirm(rounds)
        assert final.judged.ratio == 0.84
        assert tuning.verdict(final) is Verdict.MISSED


class TestRun:
    """Rounds until the budget holds without waste."""

    def test_a_surprise_is_measured_again_and_the_nearer_is_learned_from(self, tuning):
        tuning.machine.script = [(1.6, 1.59, 1.61), (0.795, 0.79, 0.798), (0.796, 0.794, 0.798)]
        (only,) = tuning._loop.run({})
        assert only.judged.ratio == 0.795
        assert surprise(only) < 0.05
        assert [final for _, final in tuning.machine.compared] == [False, False, True]

    def test_waste_is_corrected_at_most_by_a_step(self, tuning):
        first, second = (0.762, 0.76, 0.764), (0.79, 0.788, 0.795)
        tuning.machine.script = [first, second, second]
        rounds = tuning._loop.run({})
        assert [each.judged.ratio for each in rounds] == [0.762, 0.79]
        assert rounds[0].corrections == (1.0,)
        assert 1.0 < rounds[1].corrections[0] <= 2.0
        assert rounds[1].allocation.loss < rounds[0].allocation.loss

    def test_a_failed_second_look_is_followed_by_the_next_round(self, tuning):
        """What it found counts: the next plan is tighter, and is looked at twice as well."""
        seems, is_not, next_one = (0.79, 0.786, 0.795), (0.83, 0.825, 0.835), (0.79, 0.788, 0.795)
        tuning.machine.script = [seems, is_not, next_one, next_one]
        rounds = tuning._loop.run({})
        first, second = rounds
        assert first.judged.ratio == 0.79
        assert first.second_look.ratio == 0.83
        assert tuning.verdict(first.decided) is Verdict.MISSED
        table = second.network.corrected((1.0,))
        tighter, wider = (table.predict(each.allocation.plan).ratio for each in (second, first))
        assert tighter < wider
        final = tuning.confirm(rounds)
        assert tuning.machine.script == []
        assert final.allocation == second.allocation
        assert tuning.verdict(final) is Verdict.MET

    def test_the_same_plan_is_not_built_twice_the_target_is_tightened(self, tuning):
        """An interval around the prediction corrects nothing, and yet does not hold."""
        loop = dataclasses.replace(tuning._loop, rounds=3)
        tuning.machine.script = [(0.798, 0.78, 0.801)] * 3
        rounds = loop.run({})
        assert len(rounds) == 3
        losses = [each.allocation.loss for each in rounds]
        assert losses == sorted(set(losses))

    def test_a_repeated_plan_is_looked_at_and_the_rounds_go_on(self, tuning, monkeypatch):
        """Here the first round gave quality away, and its correction leads to the same plan."""
        monkeypatch.setattr(ClosedLoop, "learned", lambda loop, _: loop.planner.uncorrected)
        loop = dataclasses.replace(tuning._loop, rounds=3)
        wasteful, next_one = (0.762, 0.76, 0.764), (0.79, 0.788, 0.795)
        tuning.machine.script = [wasteful, MISSED, next_one, next_one]
        first, second = rounds = loop.run({})
        assert tuning.machine.script == []
        assert (first.measured.ratio, first.second_look.ratio) == (0.762, 0.85)
        assert second.allocation.plan != first.allocation.plan
        final = tuning.confirm(rounds)
        assert final.allocation == second.allocation
        assert tuning.verdict(final) is Verdict.MET
        assert len(tuning.machine.compared) == 4

    @pytest.mark.parametrize(
        ("script", "looked"),
        [
            ([(0.82, 0.81, 0.83)], False),
            ([(0.762, 0.76, 0.764), MET], True),
            ([MET, MISSED], True),
        ],
    )
    def test_it_ends_where_no_other_plan_is_left(self, tuning, monkeypatch, script, looked):
        (only,) = (each.allocation for each in rounds_of(tuning, 0.79))
        monkeypatch.setattr(ClosedLoop, "_solve", lambda *_, **__: only)
        loop = dataclasses.replace(tuning._loop, rounds=3)
        tuning.machine.script = list(script)
        (found,) = loop.run({})
        assert tuning.machine.script == []
        assert (found.second_look is not None) is looked

    def test_it_ends_after_its_rounds(self, tuning):
        loop = dataclasses.replace(tuning._loop, rounds=2)
        tuning.machine.script = [(0.83, 0.829, 0.831), (0.82, 0.819, 0.821), MISSED]
        assert len(loop.run({})) == 2


class TestCorrected:
    """What a measurement proves of a phase's predicted saving."""

    @pytest.fixture
    def phase(self, tuning):
        (phase,) = tuning.planner.network.phases
        return phase

    @pytest.fixture
    def plan(self, tuning):
        return {site.name: low_rank(64) for site in tuning.model.single}

    def test_a_prediction_within_the_interval_stands(self, phase, plan):
        ratio = phase.predict(plan).ratio
        (timed,) = measured(ratio + 0.01, ratio - 0.01, ratio + 0.03).passes
        assert corrected(phase, plan, measured=timed) == 1.0

    def test_beyond_it_counts_to_the_near_end(self, phase, plan):
        ratio = phase.predict(plan).ratio
        (slower,) = measured(ratio + 0.05, ratio + 0.02, ratio + 0.08).passes
        factor = corrected(phase, plan, measured=slower)
        assert factor == pytest.approx((1 - ratio - 0.02) / (1 - ratio))
        again = dataclasses.replace(phase, correction=factor)
        assert again.predict(plan).ratio == pytest.approx(ratio + 0.02)

    @pytest.mark.parametrize(("converged", "step"), [(True, 2.0), (False, 1.25)])
    @pytest.mark.parametrize("wild", [1.5, 0.001])
    def test_a_wild_one_moves_it_by_one_step(self, phase, plan, wild, converged, step):
        """A disturbed measurement proves less."""
        (timed,) = measured(wild, wild, wild).passes
        timed = dataclasses.replace(timed, converged=converged)
        whole = (1.0 - wild) / (1.0 - phase.predict(plan).ratio)
        expected = 1.0 / step if wild > 1 else min(step, whole)
        assert corrected(phase, plan, measured=timed) == pytest.approx(expected)
        assert whole > 1.25 or wild > 1
        moved = dataclasses.replace(phase, correction=2.0)
        assert 2.0 / step <= corrected(moved, plan, measured=timed) <= 2.0 * step


@pytest.mark.parametrize("tuning", [ends], indirect=True)
def test_what_every_round_would_choose_is_measured_before_it_is_built(tuning):
    """Also where the corrections of a missed round lead to forms that nobody had hoped for."""
    tuning.machine.script = [MISSED, (0.9, 0.89, 0.91), MISSED]
    rounds = tuning.close_loop({})
    assert len(rounds) == 3
    assert len({str(each.allocation.plan) for each in rounds}) == 3
    assert [guessed(each.network, each.allocation.plan) for each in rounds] == [[], [], []]
    learned = tuning.planner.network
    assert guessed(learned, rounds[-1].allocation.plan) == []
    assert learned.phases[0].correction == 1.0
