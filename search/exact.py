"""Exact allocation: the better of the Lagrangian plan and the milp, with the better bound."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from autotune.search.lagrangian import solve_lagrangian
from autotune.search.milp import solve_milp
from autotune.search.problem import Allocation, PlanProblem, make_allocation, undominated

_FEASIBLE = 1e-9


def solve_exact(problem: PlanProblem, *, relative_gap: float = 1e-4) -> Allocation:
    """The plan of least loss within the limits, certified to `relative_gap`.

    Dominated options are dropped first. With one resource the Lagrangian answers in milliseconds
    and often closes the gap; the milp is asked when it does not, and for several resources.

    Raises:
        BudgetInfeasibleError: no plan meets the limits.
    """
    problem = replace(
        problem,
        options=tuple(undominated(options) for options in problem.options),
        joint=tuple(replace(g, options=undominated(g.options)) for g in problem.joint),
    )
    if not problem.resources:
        return _least_loss(problem)
    if len(problem.resources) > 1:
        return solve_milp(problem, relative_gap=relative_gap)
    quick = solve_lagrangian(problem)
    if quick.gap <= relative_gap:
        return quick
    thorough = solve_milp(problem, relative_gap=relative_gap)
    bound = max(quick.lower_bound, thorough.lower_bound)
    # The milp rounds: a plan over the limit by its tolerance is not a plan.
    fits = all(
        cost <= limit * (1 + _FEASIBLE)
        for cost, limit in zip(thorough.costs, problem.limits, strict=True)
    )
    best = thorough if fits and thorough.loss <= quick.loss else quick
    return replace(best, lower_bound=min(bound, best.loss))


def _least_loss(problem: PlanProblem) -> Allocation:
    """The option of least loss at every site, where nothing is limited."""
    chosen = [int(np.argmin([option.loss for option in site])) for site in problem.options]
    found = make_allocation(problem, chosen, lower_bound=math.inf, solver="unlimited")
    return replace(found, lower_bound=found.loss)
