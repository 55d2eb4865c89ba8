"""Lagrangian relaxation with greedy fill: milliseconds, and a dual bound for free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.search.problem import Allocation, RankProblem, make_allocation

_BISECTIONS = 80


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """An option of every unit (sites, then joint sites), and which units count."""

    option: NDArray[np.intp]
    active: NDArray[np.bool_]

    def indices(self) -> list[int | None]:
        """As `make_allocation` wants them."""
        return [int(o) if a else None for o, a in zip(self.option, self.active, strict=True)]


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Losses and costs of every option, (units, options), padded with infinite loss at no cost.

    `members[j]` are the sites that joint site j, row `sites + j`, covers.
    """

    loss: NDArray[np.float64]
    cost: NDArray[np.float64]
    members: tuple[NDArray[np.intp], ...]

    @staticmethod
    def of(problem: RankProblem) -> _Tables:
        units = problem.unit_options
        shape = (len(units), max(len(options) for options in units))
        loss, cost = np.full(shape, np.inf), np.zeros(shape)
        for i, options in enumerate(units):
            loss[i, : len(options)] = [option.loss for option in options]
            cost[i, : len(options)] = [option.costs[0] for option in options]
        members = tuple(np.array(joint.members, dtype=np.intp) for joint in problem.joint)
        return _Tables(loss=loss, cost=cost, members=members)

    @property
    def sites(self) -> int:
        """How many units are single sites."""
        return len(self.loss) - len(self.members)

    def choose(self, multiplier: float) -> _Choice:
        """Argmin of loss + λ·cost at every site, or at its joint site; the cheaper of equals."""
        score = self.loss + multiplier * self.cost
        best = score.min(axis=1, keepdims=True)
        option: NDArray[np.intp] = np.where(score <= best, self.cost, np.inf).argmin(axis=1)
        rows = np.arange(len(option))
        least, cost = best[:, 0], self.cost[rows, option]
        active = rows < self.sites
        for joint, members in enumerate(self.members, start=self.sites):
            together = (least[joint], cost[joint])
            if together < (least[members].sum(), cost[members].sum()):
                active[joint], active[members] = True, False
        return _Choice(option=option, active=active)

    def totals(self, choice: _Choice) -> tuple[float, float]:
        """Summed loss and cost."""
        rows = np.flatnonzero(choice.active)
        option = choice.option[rows]
        return float(self.loss[rows, option].sum()), float(self.cost[rows, option].sum())


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
        return make_allocation(problem, chosen.indices(), loss, "lagrangian")
    low, high = 0.0, _first_feasible(tables, limit)
    bound = -np.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        picked = tables.choose(middle)
        loss, cost = tables.totals(picked)
        bound = max(bound, loss + middle * (cost - limit))
        low, high = (low, middle) if cost <= limit else (middle, high)
    chosen = _greedy_fill(tables, tables.choose(high), limit)
    return make_allocation(problem, chosen.indices(), float(bound), "lagrangian")


def _first_feasible(tables: _Tables, limit: float) -> float:
    multiplier = 1e-12
    while tables.totals(tables.choose(multiplier))[1] > limit:
        multiplier *= 4.0
        if multiplier > 1e30:
            # Ties at the cheapest options only; infinity is then the multiplier.
            return multiplier
    return multiplier


def _greedy_fill(tables: _Tables, choice: _Choice, limit: float) -> _Choice:
    """Take, while any fits, the change with the most loss removed for the room it takes.

    Units that do not count stay out: no joint site is formed or dissolved here.
    """
    option = choice.option.copy()
    rows = np.arange(len(option))
    room = limit - tables.totals(choice)[1]
    while True:
        gain = tables.loss[rows, option][:, None] - tables.loss
        extra = tables.cost - tables.cost[rows, option][:, None]
        fits = (gain > 0) & (extra <= room) & choice.active[:, None]
        if not fits.any():
            return _Choice(option=option, active=choice.active)
        rate = np.where(fits, gain / np.maximum(extra, 1e-300), -np.inf)
        unit, better = np.unravel_index(int(rate.argmax()), rate.shape)
        room -= extra[unit, better]
        option[unit] = better


def pareto_front(problem: RankProblem, points: int = 200) -> list[tuple[float, float]]:
    """(cost, loss) of the plans on the lower convex hull, by sweeping the multiplier."""
    tables = _Tables.of(problem)
    span = float(tables.loss[np.isfinite(tables.loss)].max())
    scale = max(span, 1e-300) / max(problem.limits[0], 1e-300)
    front = {tables.totals(tables.choose(0.0))}
    for multiplier in np.geomspace(1e-6, 1e4, points) * scale * len(problem.sites):
        front.add(tables.totals(tables.choose(float(multiplier))))
    return sorted((cost, loss) for loss, cost in front)
