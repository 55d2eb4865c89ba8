"""The sensitivity pass repairs a table whose sites are off by unknown factors."""

import numpy as np
import pytest

from autotune.core.forms import DENSE, Form, low_rank
from autotune.core.layers import Site
from autotune.search.exact import solve_exact
from autotune.search.problem import Option, PlanProblem
from autotune.search.sensitivity import perturbed, sensitivity_pass

RANKS = (8, 16, 24, 32, 48, 64)
FORMS = tuple(map(low_rank, RANKS))


@pytest.fixture
def world():
    """Sites with true errors, and a table off by a factor of 1/3 to 3 a site."""
    rng = np.random.default_rng(0)
    sites = [
        Site(name=f"s{i}", in_features=256, out_features=256, tokens=1, block=i) for i in range(12)
    ]
    true = {
        s.name: {low_rank(r): rng.exponential() * np.exp(-r / 24) for r in RANKS} for s in sites
    }
    for name in true:
        ordered = sorted(true[name].values(), reverse=True)
        true[name] = dict(zip(FORMS, ordered, strict=True))
    wrong = {n: np.exp(rng.uniform(-1.1, 1.1)) for n in true}
    table = {n: {r: e * wrong[n] for r, e in true[n].items()} for n in true}

    def solve(scales, errors=table):
        options = [
            (
                Option(form=DENSE, loss=0.0, costs=(128.0,)),
                *(
                    Option(form=f, loss=errors[s.name][f] * scales[s.name], costs=(float(f.rank),))
                    for f in FORMS
                ),
            )
            for s in sites
        ]
        return solve_exact(
            PlanProblem(
                sites=tuple(s.name for s in sites),
                options=tuple(options),
                resources=("parameters",),
                limits=(420.0,),
            )
        )

    class Judge:
        def true_loss(self, plan):
            return sum(true[n][form] for n, form in plan.items() if not form.is_dense)

        def judge(self, plans, progress):
            progress(len(plans), len(plans))

        def surely_better(self, plan, other):
            return self.true_loss(plan) < self.true_loss(other)

    return sites, true, table, solve, Judge()


def test_it_closes_most_of_the_gap_and_never_hands_out_worse(world):
    sites, true, table, solve, judge = world
    neutral = {s.name: 1.0 for s in sites}
    best = judge.true_loss(solve(neutral, true).plan)
    before = judge.true_loss(solve(neutral).plan)
    assert before > best * 1.02
    scales = sensitivity_pass(sites, errors=table, solve=solve, judge=judge, rounds=3)
    after = judge.true_loss(solve(scales).plan)
    assert after <= before
    assert after - best <= 0.5 * (before - best)


def test_a_right_table_is_left_alone(world):
    sites, true, _, solve, judge = world

    def exact(scales):
        return solve(scales, true)

    scales = sensitivity_pass(sites, errors=true, solve=exact, judge=judge, rounds=1)
    assert all(value == pytest.approx(1.0, rel=1e-6) for value in scales.values())


def test_a_rescaling_that_is_not_surely_better_is_not_taken(world, monkeypatch):
    sites, _, table, solve, judge = world
    monkeypatch.setattr(type(judge), "surely_better", lambda self, plan, other: False)
    scales = sensitivity_pass(sites, errors=table, solve=solve, judge=judge, rounds=3)
    assert set(scales.values()) == {1.0}


def test_perturbations_halve_and_never_vanish():
    assert perturbed(low_rank(48), FORMS) == low_rank(24)
    assert perturbed(low_rank(8), FORMS) is None
    assert perturbed(low_rank(16), FORMS) == low_rank(8)
    assert perturbed(low_rank(24), (low_rank(20), low_rank(24))) == low_rank(20)
    assert perturbed(DENSE, FORMS) == low_rank(64)
    assert perturbed(DENSE, ()) is None


def test_perturbations_change_the_rank_alone():
    """Another structure or precision would show another error than that of the rank."""
    pivoted = [low_rank(rank, "pivoted", precision="int8-static") for rank in RANKS]
    mixed = sorted([*FORMS, *pivoted, Form(precision="int8-static")])
    assert perturbed(low_rank(48), mixed) == low_rank(24)
    assert perturbed(pivoted[4], mixed) == pivoted[2]
    assert perturbed(DENSE, mixed) == low_rank(64)
    assert perturbed(DENSE, pivoted) is None
