"""One resource: bisect its multiplier, fill greedily; milliseconds, and a dual bound for free."""

from __future__ import annotations

import numpy as np

from autotune.search.problem import Allocation, PlanProblem, make_allocation
from autotune.search.relaxation import Choice, Tables

_BISECTIONS = 80


def solve_lagrangian(problem: PlanProblem) -> Allocation:
    """Solve a problem with one resource.

    The bound is the best dual value of the bisection; the plan is its feasible side, filled
    greedily with the room that is left.

    Raises:
        BudgetInfeasibleError: even the cheapest options exceed the limit.
    """
    assert len(problem.resources) == 1, "one resource; several go to the milp solver"
    problem.require_feasible()
    tables, limit = Tables.of(problem), problem.limits[0]
    chosen = _choose(tables, 0.0)
    loss, cost = _totals(tables, chosen)
    if cost <= limit:
        return make_allocation(problem, chosen.indices(), lower_bound=loss, solver="lagrangian")
    low, high = 0.0, _first_feasible(tables, limit)
    bound = -np.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        loss, cost = _totals(tables, _choose(tables, middle))
        bound = max(bound, loss + middle * (cost - limit))
        low, high = (low, middle) if cost <= limit else (middle, high)
    chosen = _greedy_fill(tables, _choose(tables, high), limit=limit)
    return make_allocation(problem, chosen.indices(), lower_bound=float(bound), solver="lagrangian")


def _choose(tables: Tables, multiplier: float) -> Choice:
    return tables.choose(np.array([multiplier]))


def _totals(tables: Tables, choice: Choice) -> tuple[float, float]:
    loss, costs = tables.totals(choice)
    return loss, float(costs[0])


def _first_feasible(tables: Tables, limit: float) -> float:
    multiplier = 1e-12
    while _totals(tables, _choose(tables, multiplier))[1] > limit:
        multiplier *= 4.0
        if multiplier > 1e30:
            # Ties at the cheapest options only; infinity is then the multiplier.
            return multiplier
    return multiplier


def _greedy_fill(tables: Tables, choice: Choice, *, limit: float) -> Choice:
    """Take, while any fits, the change with the most loss removed for the room it takes.

    Sites that take no part stay out: no joint site is formed or dissolved here.
    """
    option = choice.option.copy()
    rows = np.arange(len(option))
    cost = tables.costs[:, :, 0]
    room = limit - _totals(tables, choice)[1]
    while True:
        gain = tables.loss[rows, option][:, None] - tables.loss
        extra = cost - cost[rows, option][:, None]
        fits = (gain > 0) & (extra <= room) & choice.active[:, None]
        if not fits.any():
            return Choice(option=option, active=choice.active)
        rate = np.where(fits, gain / np.maximum(extra, 1e-300), -np.inf)
        site, better = np.unravel_index(int(rate.argmax()), rate.shape)
        room -= extra[site, better]
        option[site] = better


def pareto_front(problem: PlanProblem, points: int = 200) -> list[tuple[float, float]]:
    """(cost, loss) of the plans on the lower convex hull, by sweeping the multiplier."""
    tables = Tables.of(problem)
    span = float(tables.loss[np.isfinite(tables.loss)].max())
    scale = max(span, 1e-300) / max(problem.limits[0], 1e-300)
    sweep = [0.0, *(np.geomspace(1e-6, 1e4, points) * scale * len(problem.sites))]
    front = {_totals(tables, _choose(tables, float(multiplier))) for multiplier in sweep}
    return sorted((cost, loss) for loss, cost in front)
