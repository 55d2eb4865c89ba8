"""The sensitivity pass repairs a table whose sites are off by unknown factors."""

import numpy as np
import pytest

from autotune.core.types import Site
from autotune.search.exact import solve_exact
from autotune.search.problem import Option, RankProblem
from autotune.search.sensitivity import perturbed, sensitivity_pass

RANKS = (8, 16, 24, 32, 48, 64)


@pytest.fixture
def world():
    """Sites with true errors, and a table off by a factor of 1/3 to 3 a site."""
    rng = np.random.default_rng(0)
    sites = [
        Site(name=f"s{i}", in_features=256, out_features=256, tokens=1, block=i) for i in range(12)
    ]
    true = {s.name: {r: rng.exponential() * np.exp(-r / 24) for r in RANKS} for s in sites}
    for name in true:
        ordered = sorted(true[name].values(), reverse=True)
        true[name] = dict(zip(RANKS, ordered, strict=True))
    wrong = {n: np.exp(rng.uniform(-1.1, 1.1)) for n in true}
    table = {n: {r: e * wrong[n] for r, e in true[n].items()} for n in true}

    def solve(scales, errors=table):
        options = [
            (
                Option(rank=None, loss=0.0, costs=(128.0,)),
                *(Option(rank=r, loss=errors[s.name][r] * scales[s.name], costs=(float(r),))
                  for r in RANKS),
            )
            for s in sites
        ]  # fmt: skip
        return solve_exact(
            RankProblem(
                sites=tuple(s.name for s in sites), options=tuple(options),
                resources=("parameters",), limits=(420.0,),
            )
        )  # fmt: skip

    class Judge:
        def true_loss(self, ranks):
            return sum(true[n][r] for n, r in ranks.items() if r is not None)

        def judge(self, plans, progress):
            progress(len(plans), len(plans))

        def surely_better(self, ranks, other):
            return self.true_loss(ranks) < self.true_loss(other)

    return sites, true, table, solve, Judge()


def test_it_closes_most_of_the_gap_and_never_hands_out_worse(world):
    sites, true, table, solve, judge = world
    neutral = {s.name: 1.0 for s in sites}
    best = judge.true_loss(solve(neutral, true).ranks)
    before = judge.true_loss(solve(neutral).ranks)
    assert before > best * 1.02
    after = judge.true_loss(solve(sensitivity_pass(sites, table, solve, judge, rounds=3)).ranks)
    assert after <= before
    assert after - best <= 0.5 * (before - best)


def test_a_right_table_is_left_alone(world):
    sites, true, _, solve, judge = world

    def exact(scales):
        return solve(scales, true)

    scales = sensitivity_pass(sites, true, exact, judge, rounds=1)
    assert all(value == pytest.approx(1.0, rel=1e-6) for value in scales.values())


def test_a_rescaling_that_is_not_surely_better_is_not_taken(world, monkeypatch):
    sites, _, table, solve, judge = world
    monkeypatch.setattr(type(judge), "surely_better", lambda self, ranks, other: False)
    scales = sensitivity_pass(sites, table, solve, judge, rounds=3)
    assert set(scales.values()) == {1.0}


def test_perturbations_halve_and_never_vanish():
    assert perturbed(48, RANKS) == 24
    assert perturbed(8, RANKS) is None
    assert perturbed(16, RANKS) == 8
    assert perturbed(24, (20, 24)) == 20
    assert perturbed(None, RANKS) == 64
    assert perturbed(None, ()) is None
