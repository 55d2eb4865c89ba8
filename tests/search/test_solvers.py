"""Every solver that claims an optimum against enumeration."""

import itertools
import math

import numpy as np
import pytest

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import DENSE, low_rank
from autotune.search.exact import solve_exact
from autotune.search.lagrangian import pareto_front, solve_lagrangian
from autotune.search.milp import solve_milp
from autotune.search.problem import Option, PlanProblem, undominated


def random_problem(seed, resources=1, sites=6, ranks=8, tightness=0.55):
    rng = np.random.default_rng(seed)
    options = []
    for _ in range(sites):
        scale = 10 ** rng.uniform(-6, -1)
        losses = scale * np.sort(rng.exponential(size=ranks))[::-1]
        costs = np.sort(rng.uniform(0.1, 1.0, (ranks, resources)), axis=0)
        site = [
            Option(form=low_rank(8 * (i + 1)), loss=float(losses[i]), costs=tuple(costs[i]))
            for i in range(ranks)
        ]
        site.append(Option(form=DENSE, loss=0.0, costs=(1.1,) * resources))
        options.append(tuple(site))
    return PlanProblem(
        sites=tuple(f"s{i}" for i in range(sites)),
        options=tuple(options),
        resources=("latency", "parameters", "flops")[:resources],
        limits=(sites * tightness,) * resources,
    )


def enumerate_best(problem):
    """Least loss over all plans, by brute force (vectorised over the last three sites)."""
    best = math.inf
    half = len(problem.options) // 2
    tails = list(itertools.product(*problem.options[half:]))
    tail_loss = np.array([sum(o.loss for o in tail) for tail in tails])
    tail_cost = np.array([np.sum([o.costs for o in tail], axis=0) for tail in tails])
    for head in itertools.product(*problem.options[:half]):
        cost = tail_cost + np.sum([o.costs for o in head], axis=0)
        fits = (cost <= np.array(problem.limits)).all(axis=1)
        if fits.any():
            best = min(best, sum(o.loss for o in head) + tail_loss[fits].min())
    return best


def total(problem, allocation):
    picked = [
        next(o for o in options if o.form == allocation.plan[name])
        for name, options in zip(problem.sites, problem.options, strict=True)
    ]
    return sum(o.loss for o in picked), np.sum([o.costs for o in picked], axis=0)


@pytest.mark.parametrize("resources", [1, 2, 3])
def test_the_exact_solver_equals_enumeration(resources):
    for seed in range(67):
        problem = random_problem(seed, resources)
        allocation = solve_exact(problem, relative_gap=1e-9)
        loss, costs = total(problem, allocation)
        best = enumerate_best(problem)
        assert loss == pytest.approx(best, rel=1e-6), seed
        assert allocation.loss == pytest.approx(loss, rel=1e-12), seed
        assert (costs <= np.array(problem.limits) * (1 + 1e-9)).all(), seed
        assert allocation.lower_bound <= best * (1 + 1e-6), seed


def test_the_lagrangian_is_feasible_and_its_bound_holds():
    for seed in range(30):
        problem = random_problem(seed)
        allocation = solve_lagrangian(problem)
        loss, costs = total(problem, allocation)
        best = enumerate_best(problem)
        assert costs[0] <= problem.limits[0], seed
        assert allocation.lower_bound <= best * (1 + 1e-9), seed
        assert loss >= best * (1 - 1e-9), seed


def test_a_loose_budget_leaves_everything_dense():
    problem = random_problem(0, tightness=1.2)
    assert set(solve_exact(problem).plan.values()) == {DENSE}
    assert solve_exact(problem).gap == 0


def test_a_budget_of_exactly_the_least_cost_is_met():
    problem = random_problem(3)
    limit = float(problem.least_costs()[0])
    tight = PlanProblem(**{**problem.__dict__, "limits": (limit * (1 + 1e-12),)})
    assert set(solve_exact(tight).plan.values()) == {low_rank(8)}


def test_infeasible_budgets_name_the_reachable_minimum():
    problem = random_problem(1, tightness=0.01)
    for solver in (solve_lagrangian, solve_milp, solve_exact):
        with pytest.raises(BudgetInfeasibleError) as error:
            solver(problem)
        assert error.value.reachable["latency"] == pytest.approx(problem.least_costs()[0])


def test_budgets_that_conflict_only_together():
    def option(rank, a, b):
        return Option(form=low_rank(rank), loss=1.0, costs=(a, b))

    problem = PlanProblem(
        sites=("s",),
        options=((option(8, 0.0, 1.0), option(16, 1.0, 0.0)),),
        resources=("latency", "parameters"),
        limits=(0.5, 0.5),
    )
    with pytest.raises(BudgetInfeasibleError, match="together"):
        solve_exact(problem)


def test_at_the_size_of_a_large_model_the_gap_is_certified():
    problem = random_problem(7, sites=224, ranks=64)
    assert solve_exact(problem, relative_gap=1e-3).gap <= 1e-3


def test_solvers_keep_stdout_clean(capfd):
    solve_milp(random_problem(5, sites=40, ranks=16))
    assert capfd.readouterr().out == ""


def test_dominated_options_never_matter():
    for seed in range(20):
        problem = random_problem(seed, resources=2, sites=3)
        rng = np.random.default_rng(seed)
        worse = tuple(
            (
                *site,
                *(
                    Option(
                        form=low_rank(999 + i),
                        loss=o.loss * 1.5,
                        costs=tuple(c * rng.uniform(1, 2) for c in o.costs),
                    )
                    for i, o in enumerate(site)
                ),
            )
            for site in problem.options
        )
        pruned = tuple(undominated(site) for site in worse)
        assert all(o.form.rank < 999 for site in pruned for o in site)
        reduced = PlanProblem(**{**problem.__dict__, "options": pruned})
        assert enumerate_best(reduced) == pytest.approx(enumerate_best(problem))


def test_a_faster_larger_rank_removes_the_smaller():
    slow = Option(form=low_rank(768), loss=2.0, costs=(1.01,))
    fast = Option(form=low_rank(1024), loss=1.0, costs=(0.83,))
    assert undominated([slow, fast]) == (fast,)


def test_the_front_is_convex_and_reaches_dense():
    front = pareto_front(random_problem(2))
    costs, losses = zip(*front, strict=True)
    assert losses[-1] == 0.0
    assert list(losses) == sorted(losses, reverse=True)
    slopes = np.diff(losses) / np.diff(costs)
    assert (np.diff(slopes) >= -1e-9).all()
