"""The promise, on simulated machines whose truth is known: 50 seeds for each part of it.

What is handed out holds its budget, its loss is close to the best there is, a wrong table is
corrected, a slow neighbour never turns a verdict, and nothing slower than dense passes unsaid.
"""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import DENSE
from autotune.core.layers import chosen_sites
from autotune.core.workload import Budget, Workload
from autotune.predictor.base import LatencyPredictor
from autotune.testing.disturbance import Disturbance, SlowSpell
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedMachine
from autotune.testing.replay import RecordedHardware
from autotune.testing.tuning import (
    example_errors,
    example_sites,
    run_simulated,
    simulated_tuning,
    true_ratio,
)
from tests.conftest import DATA

pytestmark = pytest.mark.duration(180)

SEEDS = range(50)
WORKLOADS = {
    "cpu-like": Workload(batch_size=1, sequence_length=256),
    "h200-like": Workload(batch_size=4, sequence_length=1024),
}
UNITS = {"cpu-like": 64, "h200-like": 512}
# The exact solver takes most of the time, and a wide layer has a hundred ranks or more.
FORMS = {"cpu-like": 0, "h200-like": 48}
# A 95 % interval leaves its limit out once in forty times on one side; it is then close to it.
ALLOWED_MISTAKES, ALLOWED_EXCESS = 2, 0.004


def budget_of(seed):
    return random.Random(f"budget:{seed}").choice((0.7, 0.8, 0.9))


def tuned(
    folder,
    seed,
    *,
    hardware=None,
    preset="cpu-like",
    limit=None,
    budget=None,
    disturbance=None,
    product_sd_s=0.0,
    change=None,
    forms_per_site=0,
):
    """The outcome of one simulated tuning under a latency budget of `limit` times dense."""
    workload = WORKLOADS[preset]
    sites = example_sites(workload, seed=seed, unit=UNITS[preset])
    machine = SimulatedMachine(
        hardware or simulated_hardware(preset, seed=seed),
        folder / f"{seed}.sqlite",
        seed=seed,
        disturbance=disturbance or Disturbance(),
        product_sd_s=product_sd_s,
    )
    errors = example_errors(sites, machine.rank_multiple, seed=seed, forms_per_site=forms_per_site)
    with simulated_tuning(
        machine,
        folder / f"out-{seed}",
        budget=budget or Budget(latency=f"{limit or budget_of(seed)}x"),
        sites=sites,
        errors=errors,
        workload=workload,
    ) as tuning:
        if change:
            change(tuning)
        return run_simulated(tuning)


def excess(outcome, limit):
    """By what share of the limit the plan is truly slower than allowed."""
    return outcome.true_ratio / limit - 1.0


@pytest.mark.parametrize("preset", ["cpu-like", pytest.param("h200-like", marks=pytest.mark.slow)])
def test_what_is_handed_out_holds_the_budget(tmp_path, preset):
    verdicts, over = Counter(), []
    for seed in SEEDS:
        outcome = tuned(tmp_path, seed, preset=preset, forms_per_site=FORMS[preset])
        verdicts[outcome.verdict] += 1
        if outcome.verdict == "met" and excess(outcome, budget_of(seed)) > 0:
            over.append(excess(outcome, budget_of(seed)))
        assert outcome.true_ratio > 0.9 * budget_of(seed), "a tenth of the budget was given away"
    assert verdicts["met"] >= 0.96 * len(SEEDS), verdicts
    assert len(over) <= ALLOWED_MISTAKES, over
    assert max(over, default=0.0) <= ALLOWED_EXCESS


@pytest.mark.slow
def test_recorded_layers_are_tuned_like_simulated_ones(tmp_path):
    """The truth of the layers is a recording of a real processor, not a formula of this package."""
    hardware = RecordedHardware.from_export(DATA / "recorded_cpu.csv")
    verdicts = Counter()
    for seed in SEEDS:
        limit = random.Random(f"budget:{seed}").choice((0.8, 0.9))
        try:
            outcome = tuned(tmp_path, seed, hardware=hardware, limit=limit)
        except BudgetInfeasibleError:
            verdicts["infeasible"] += 1
            continue
        verdicts[outcome.verdict] += 1
        if outcome.verdict == "met":
            assert excess(outcome, limit) <= ALLOWED_EXCESS
    assert verdicts["met"] >= 0.9 * len(SEEDS), verdicts


@pytest.mark.slow
def test_the_loss_is_close_to_that_of_the_best_plan(tmp_path):
    """At most the least loss of all plans that truly stay 3 % below the limit.

    The loop aims 1 % below the limit and stops within 1.5 % of it; the rest is noise.
    """
    for seed in SEEDS:
        outcome = tuned(tmp_path, seed, forms_per_site=4)
        planner = outcome.tuning.planner
        choices = [
            [(site, form) for form in (DENSE, *table)] for site, table in planner.errors.items()
        ]
        plans = sorted((dict(each) for each in itertools.product(*choices)), key=planner.table_loss)
        limit = budget_of(seed)
        reachable = (p for p in plans if true_ratio(outcome.tuning, p) <= 0.97 * limit)
        best = planner.table_loss(next(reachable))
        assert outcome.loss <= best * (1 + 1e-9), seed


class Distorted(LatencyPredictor):
    """Another predictor's ratios, raised to a power, and passed off as measured."""

    def __init__(self, predictor, exponent):
        self._predictor, self._exponent = predictor, exponent

    def estimate(self, shape):
        found = self._predictor.estimate(shape)
        if shape.is_dense:
            return found
        factor = found.ratio ** (self._exponent - 1.0)
        return replace(
            found,
            latency_s=found.latency_s * factor,
            low_s=found.low_s * factor,
            high_s=found.high_s * factor,
            ratio=found.ratio * factor,
            source="measured",
        )


@pytest.mark.slow
def test_a_wrong_table_converges_in_three_rounds(tmp_path):
    """Savings that are a third too small or too large are corrected by what networks measure."""
    verdicts, over = Counter(), []
    for seed in SEEDS:
        exponent = random.Random(f"wrong:{seed}").choice((0.6, 0.75, 1.3, 1.6))

        def distort(tuning, exponent=exponent):
            network = tuning.planner.network
            wrong = network.on(Distorted(network.phases[0].predictor, exponent))
            tuning.planner = replace(tuning.planner, network=wrong)

        outcome = tuned(tmp_path, seed, change=distort)
        assert len(outcome.rounds) <= 3
        verdicts[outcome.verdict] += 1
        if outcome.verdict == "met":
            over.append(excess(outcome, budget_of(seed)))
    assert verdicts["met"] >= 0.94 * len(SEEDS), verdicts
    assert sum(each > 0 for each in over) <= ALLOWED_MISTAKES
    assert max(over) <= ALLOWED_EXCESS


@pytest.mark.slow
def test_a_slow_neighbour_never_turns_the_verdict(tmp_path):
    """Whatever stage it falls into: it may cost a plan its proof, but proves nothing wrong."""
    verdicts = Counter()
    for seed in SEEDS:
        draw = random.Random(f"neighbour:{seed}")
        spells = tuple(
            SlowSpell(
                factor=draw.uniform(1.1, 4.0),
                start_s=draw.uniform(0.0, 40.0),
                length_s=draw.choice((2.0, 5.0, 20.0, 1e9)),
                hits=draw.choice((1.0, 0.5, 0.2)),
            )
            for _ in range(2)
        )
        try:
            outcome = tuned(tmp_path, seed, disturbance=Disturbance(spells=spells))
        except BudgetInfeasibleError:
            verdicts["infeasible"] += 1
            continue
        verdicts[outcome.verdict] += 1
        over = excess(outcome, budget_of(seed))
        assert not (outcome.verdict == "met" and over > ALLOWED_EXCESS), (seed, over)
        assert not (outcome.verdict == "missed" and over < -ALLOWED_EXCESS), (seed, over)
    assert verdicts["met"] >= 0.8 * len(SEEDS), verdicts


@pytest.mark.slow
def test_nothing_slower_than_dense_is_handed_out_unsaid(tmp_path):
    """Where pairs are slower than their layers, a plan for a parameter budget is a miss."""
    verdicts = Counter()
    for seed in SEEDS:
        overhead_s = random.Random(f"start:{seed}").choice((1e-6, 2e-3))
        hardware = simulated_hardware("cpu-like", seed=seed, overhead_s=overhead_s)
        outcome = tuned(tmp_path, seed, hardware=hardware, budget=Budget(parameters="0.8x"))
        slower = outcome.true_ratio > 1.0
        verdicts[slower, outcome.verdict] += 1
        # Without a latency budget, up to 2 % of the interval may lie above 1 (results/verdict.py).
        assert not (outcome.verdict == "met" and outcome.true_ratio > 1.02)
        assert not (outcome.verdict == "missed" and not slower)
    assert verdicts[True, "missed"] >= 10 <= verdicts[False, "met"], verdicts


@pytest.mark.slow
def test_the_interval_holds_whenever_the_result_is_timed_again(tmp_path):
    """For half of the time every product takes longer, for minutes: one tuning sees one of both."""
    added_s = 60e-6
    verdicts, held, over = Counter(), 0, []
    for seed in SEEDS:
        draw = random.Random(f"spell:{seed}")
        turns = list(itertools.accumulate(draw.uniform(30.0, 200.0) for _ in range(20)))
        first = draw.randrange(2)  # whether it begins within a spell
        spells = tuple(
            SlowSpell(factor=1.0, added_s=added_s, start_s=start, length_s=end - start)
            for start, end in list(itertools.pairwise((0.0, *turns)))[first::2]
        )
        outcome = tuned(
            tmp_path, seed, disturbance=Disturbance(spells=spells), product_sd_s=0.6 * added_s
        )
        verdicts[outcome.verdict] += 1
        found = outcome.final.judged
        other = ratios_in_and_out_of_spells(outcome, added_s)
        held += sum(found.ratio_low <= ratio <= found.ratio_high for ratio in other)
        over += [ratio / budget_of(seed) - 1.0 for ratio in other if outcome.verdict == "met"]
    assert held >= 0.9 * 2 * len(SEEDS), held
    assert verdicts["met"] >= 0.8 * len(SEEDS), verdicts
    assert sum(each > 0 for each in over) <= 2 * ALLOWED_MISTAKES, over


def ratios_in_and_out_of_spells(outcome, added_s):
    """The true ratio where each product takes `added_s` longer, and where it does not."""
    tuning, plan = outcome.tuning, outcome.final.allocation.plan
    sites = tuning.model.choices_in("prefill")
    time_s = tuning.machine.simulated.network_latency_s
    dense_s, plan_s = time_s(sites, {}), time_s(sites, plan)
    chosen = chosen_sites(sites, plan)
    dense = sum(len(site.layers) for site, _ in chosen)
    pairs = sum(not form.is_dense for _, form in chosen)
    return [(plan_s + (dense + pairs) * each) / (dense_s + dense * each) for each in (0.0, added_s)]
