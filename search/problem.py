"""The rank problem: one option per site, least total loss, within every limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BudgetInfeasibleError


@dataclass(frozen=True, kw_only=True)
class Option:
    """One choice at a site: a rank (None = dense), its loss and what it costs of each resource."""

    rank: int | None
    loss: float
    costs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RankProblem:
    """Multiple-choice knapsack: choose one option per site, minimise Σ loss, Σ costs ≤ limits.

    `limits` are what the sites together may cost (the rest of the network already taken off).
    """

    sites: tuple[str, ...]
    options: tuple[tuple[Option, ...], ...]
    resources: tuple[str, ...]
    limits: tuple[float, ...]

    def least_costs(self) -> NDArray[np.float64]:
        """The smallest reachable total of each resource, taken one at a time."""
        return np.array(
            [
                sum(min(option.costs[j] for option in site) for site in self.options)
                for j in range(len(self.resources))
            ]
        )

    def require_feasible(self) -> None:
        """Check every limit by itself against its least cost.

        Raises:
            BudgetInfeasibleError: a limit that no plan can meet.
        """
        least = self.least_costs()
        for j, resource in enumerate(self.resources):
            if least[j] > self.limits[j]:
                raise BudgetInfeasibleError(
                    f"no plan meets the {resource} budget",
                    {resource: float(least[j])},
                )


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A solution with its certificate: lower_bound ≤ optimum ≤ loss."""

    ranks: Mapping[str, int | None]
    loss: float
    costs: tuple[float, ...]
    lower_bound: float
    solver: str

    @property
    def gap(self) -> float:
        """Certified relative distance from the optimum; 1 where the rule has no certificate."""
        return max(0.0, self.loss - self.lower_bound) / max(self.loss, 1e-300)


def make_allocation(
    problem: RankProblem, chosen: Sequence[int], lower_bound: float, solver: str
) -> Allocation:
    """The allocation of option indices `chosen`, one per site."""
    picked = [options[i] for options, i in zip(problem.options, chosen, strict=True)]
    totals = np.sum([option.costs for option in picked], axis=0)
    loss = float(sum(option.loss for option in picked))
    return Allocation(
        ranks={name: option.rank for name, option in zip(problem.sites, picked, strict=True)},
        loss=loss,
        costs=tuple(float(t) for t in totals),
        lower_bound=min(lower_bound, loss),
        solver=solver,
    )


def undominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """Drop every option that another one beats or equals in loss and in all costs.

    Latency is a staircase, not monotone in rank: a larger rank is often as fast (latency.md §2).
    """
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.loss, o.costs)):
        if not any(all(k <= c for k, c in zip(o.costs, option.costs, strict=True)) for o in kept):
            kept.append(option)
    return tuple(kept)
