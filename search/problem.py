"""The plan problem: one form per site, least total loss, within every limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import Form, Plan


@dataclass(frozen=True, kw_only=True)
class Option:
    """One choice at a site: a form, its loss and what it costs of each resource."""

    form: Form
    loss: float
    costs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Joint:
    """A joint site: sites (by index) that one option may cover together, as one shared factor."""

    name: str
    members: tuple[int, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True, kw_only=True)
class PlanProblem:
    """Multiple-choice knapsack: cover every site once, minimise Σ loss, Σ costs ≤ limits.

    A site is covered by one of its own options or by one of the joint site it belongs to, of which
    there is at most one. `limits` are what the sites together may cost (the rest of the network
    already taken off).
    """

    sites: tuple[str, ...]
    options: tuple[tuple[Option, ...], ...]
    resources: tuple[str, ...]
    limits: tuple[float, ...]
    joint: tuple[Joint, ...] = ()

    @property
    def all_options(self) -> tuple[tuple[Option, ...], ...]:
        """Options of every site, then of every joint site."""
        return (*self.options, *(joint.options for joint in self.joint))

    def least_costs(self) -> NDArray[np.float64]:
        """The smallest reachable total of each resource, taken one at a time."""
        totals = np.zeros(len(self.resources))
        for j in range(len(self.resources)):
            least = [min(option.costs[j] for option in site) for site in self.options]
            totals[j] = sum(least)
            for joint in self.joint:
                alone = sum(least[i] for i in joint.members)
                together = min(option.costs[j] for option in joint.options)
                totals[j] += min(0.0, together - alone)
        return totals

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
    """A solution with its certificate: lower_bound ≤ optimum ≤ loss.

    `plan` names every site, or the joint site that covers it.
    """

    plan: Plan
    loss: float
    costs: tuple[float, ...]
    lower_bound: float
    solver: str

    @property
    def gap(self) -> float:
        """Certified relative distance from the optimum; 1 where the rule has no certificate."""
        return max(0.0, self.loss - self.lower_bound) / max(self.loss, 1e-300)


def make_allocation(
    problem: PlanProblem, chosen: Sequence[int | None], *, lower_bound: float, solver: str
) -> Allocation:
    """The allocation of option indices `chosen`: one per site, then one per joint site.

    None stands for a joint site that is not used, or for a site that a joint site covers. Joint
    sites may be left off the end.
    """
    names = (*problem.sites, *(joint.name for joint in problem.joint))
    picked = {
        name: options[i]
        for name, options, i in zip(names, problem.all_options, chosen, strict=False)
        if i is not None
    }
    totals = np.sum([option.costs for option in picked.values()], axis=0)
    loss = float(sum(option.loss for option in picked.values()))
    return Allocation(
        plan={name: option.form for name, option in picked.items()},
        loss=loss,
        costs=tuple(float(t) for t in totals),
        lower_bound=min(lower_bound, loss),
        solver=solver,
    )


def undominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """Drop every option that another one beats or equals in loss and in all costs.

    Latency is a staircase, not monotone in rank: a larger rank is often as fast
    (docs/predictor.md).
    """
    ordered = sorted(options, key=lambda o: (o.loss, o.costs))
    costs = np.array([option.costs for option in ordered]).reshape(len(ordered), -1)
    beats = (costs[:, None] <= costs[None]).all(axis=2)
    # Only what comes before has no more loss; to be beaten by what is itself beaten is the same.
    beaten = np.triu(beats, k=1)
    return tuple(option for i, option in enumerate(ordered) if not beaten[:, i].any())
