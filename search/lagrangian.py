"""Lagrangian relaxation with greedy fill: milliseconds, and a dual bound for free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.search.problem import Allocation, RankProblem, make_allocation

_BISECTIONS = 80


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Losses and costs of every option, (sites, options), padded with infinite loss at no cost."""

    loss: NDArray[np.float64]
    cost: NDArray[np.float64]

    @staticmethod
    def of(problem: RankProblem) -> _Tables:
        width = max(len(options) for options in problem.options)
        shape = (len(problem.sites), width)
        loss, cost = np.full(shape, np.inf), np.zeros(shape)
        for i, options in enumerate(problem.options):
            loss[i, : len(options)] = [option.loss for option in options]
            cost[i, : len(options)] = [option.costs[0] for option in options]
        return _Tables(loss=loss, cost=cost)

    def choose(self, multiplier: float) -> NDArray[np.intp]:
        """Argmin of loss + λ·cost at every site; the cheaper of equals."""
        score = self.loss + multiplier * self.cost
        best = score.min(axis=1, keepdims=True)
        chosen: NDArray[np.intp] = np.where(score <= best, self.cost, np.inf).argmin(axis=1)
        return chosen

    def totals(self, chosen: NDArray[np.intp]) -> tuple[float, float]:
        """Summed loss and cost."""
        rows = np.arange(len(chosen))
        return float(self.loss[rows, chosen].sum()), float(self.cost[rows, chosen].sum())


def solve_lagrangian(problem: RankProblem) -> Allocation:
    """Solve a problem with one resource.

    The dual value max_λ Σ min(loss + λ·cost) − λ·limit bounds the optimum from below; the plan is
    the feasible side of the bisection, filled greedily with the room that is left.

    Raises:
        BudgetInfeasibleError: even the cheapest options exceed the limit.
    """
    assert len(problem.resources) == 1, "one resource; several go to the milp solver"
    problem.require_feasible()
    tables, limit = _Tables.of(problem), problem.limits[0]
    chosen = tables.choose(0.0)
    loss, cost = tables.totals(chosen)
    if cost <= limit:
        return make_allocation(problem, chosen.tolist(), loss, "lagrangian")
    low, high = 0.0, _first_feasible(tables, limit)
    bound = -np.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        picked = tables.choose(middle)
        loss, cost = tables.totals(picked)
        bound = max(bound, loss + middle * (cost - limit))
        low, high = (low, middle) if cost <= limit else (middle, high)
    chosen = _greedy_fill(tables, tables.choose(high), limit)
    return make_allocation(problem, chosen.tolist(), float(bound), "lagrangian")


def _first_feasible(tables: _Tables, limit: float) -> float:
    multiplier = 1e-12
    while tables.totals(tables.choose(multiplier))[1] > limit:
        multiplier *= 4.0
        if multiplier > 1e30:
            # Ties at the cheapest options only; infinity is then the multiplier.
            return multiplier
    return multiplier


def _greedy_fill(tables: _Tables, chosen: NDArray[np.intp], limit: float) -> NDArray[np.intp]:
    """Take, while any fits, the change with the most loss removed for the room it takes."""
    chosen = chosen.copy()
    rows = np.arange(len(chosen))
    room = limit - tables.totals(chosen)[1]
    while True:
        gain = tables.loss[rows, chosen][:, None] - tables.loss
        extra = tables.cost - tables.cost[rows, chosen][:, None]
        fits = (gain > 0) & (extra <= room)
        if not fits.any():
            return chosen
        rate = np.where(fits, gain / np.maximum(extra, 1e-300), -np.inf)
        site, option = np.unravel_index(int(rate.argmax()), rate.shape)
        room -= extra[site, option]
        chosen[site] = option


def pareto_front(problem: RankProblem, points: int = 200) -> list[tuple[float, float]]:
    """(cost, loss) of the plans on the lower convex hull, by sweeping the multiplier."""
    tables = _Tables.of(problem)
    span = float(tables.loss[np.isfinite(tables.loss)].max())
    scale = max(span, 1e-300) / max(problem.limits[0], 1e-300)
    front = {tables.totals(tables.choose(0.0))}
    for multiplier in np.geomspace(1e-6, 1e4, points) * scale * len(problem.sites):
        front.add(tables.totals(tables.choose(float(multiplier))))
    return sorted((cost, loss) for loss, cost in front)
