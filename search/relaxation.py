"""Lagrangian relaxation of the plan problem: choices, dual bounds and what may be ruled out.

For multipliers λ ≥ 0 of the resources, Σ min(loss + λ·costs) − λ·limits bounds the optimum from
below, whatever λ; an option whose score lies further above its site's best than the bound lies
below a known plan is in no better plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.search.problem import PlanProblem

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An option of every row (sites, then joint sites), and which rows take part."""

    option: NDArray[np.intp]
    active: NDArray[np.bool_]

    def indices(self) -> list[int | None]:
        """The chosen option of every row, None where it takes no part (see `make_allocation`)."""
        return [int(o) if a else None for o, a in zip(self.option, self.active, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Losses (rows, options) and costs (rows, options, resources) of sites, then joint sites.

    Short rows are padded with infinite loss at no cost. `members[j]` are the sites that joint site
    j, row `sites + j`, covers.
    """

    loss: Floats
    costs: Floats
    members: tuple[NDArray[np.intp], ...]

    @staticmethod
    def of(problem: PlanProblem) -> Tables:
        """The arrays that stand for the options of `problem`."""
        rows = problem.all_options
        shape = (len(rows), max(len(options) for options in rows))
        loss, costs = np.full(shape, np.inf), np.zeros((*shape, len(problem.resources)))
        for i, options in enumerate(rows):
            loss[i, : len(options)] = [option.loss for option in options]
            costs[i, : len(options)] = [option.costs for option in options]
        members = tuple(np.array(joint.members, dtype=np.intp) for joint in problem.joint)
        return Tables(loss=loss, costs=costs, members=members)

    @property
    def sites(self) -> int:
        """How many rows are single sites."""
        return len(self.loss) - len(self.members)

    def choose(self, multipliers: Floats) -> Choice:
        """Argmin of loss + λ·costs at every site, or at its joint site; the cheaper of equals."""
        price = self.costs @ multipliers
        score = self.loss + price
        best = score.min(axis=1, keepdims=True)
        cost = self.costs.sum(axis=2)
        option: NDArray[np.intp] = np.where(score <= best, cost, np.inf).argmin(axis=1)
        rows = np.arange(len(option))
        least, paid = best[:, 0], cost[rows, option]
        active = rows < self.sites
        for joint, members in enumerate(self.members, start=self.sites):
            together = (least[joint], paid[joint])
            if together < (least[members].sum(), paid[members].sum()):
                active[joint], active[members] = True, False
        return Choice(option=option, active=active)

    def totals(self, choice: Choice) -> tuple[float, Floats]:
        """Summed loss, and summed cost of each resource."""
        rows = np.flatnonzero(choice.active)
        option = choice.option[rows]
        costs: Floats = self.costs[rows, option].sum(axis=0)
        return float(self.loss[rows, option].sum()), costs

    def bound(self, multipliers: Floats, limits: Floats) -> float:
        """The dual value at λ: no plan within `limits` has a smaller loss."""
        loss, costs = self.totals(self.choose(multipliers))
        return loss + float(multipliers @ (costs - limits))

    def excess(self, multipliers: Floats) -> Floats:
        """(rows, options): by how much the dual value rises when the option must be taken."""
        score = self.loss + self.costs @ multipliers
        least = score.min(axis=1)
        floor = least.copy()
        for joint, members in enumerate(self.members, start=self.sites):
            apart = float(least[members].sum())
            cheapest = min(float(least[joint]), apart)
            floor[joint] = cheapest
            # Taking a member's option means that the whole group stands apart.
            floor[members] -= apart - cheapest
        rise: Floats = score - floor[:, None]
        return rise
