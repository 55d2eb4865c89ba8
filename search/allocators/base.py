"""How ranks are chosen: one contract for the exact solver and for the papers' rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.types import Site
from autotune.search.evidence import Evidence
from autotune.search.problem import Allocation, RankProblem, make_allocation

Plan = Mapping[str, int | None]
_FIT = 1e-9
_STEPS = 48


@dataclass(frozen=True, kw_only=True)
class Question:
    """A rank problem with every aligned candidate in it, and what else a rule may ask.

    `latency_ratio(site, rank)` is latency recovery from the table: above 1 is slower than dense.
    """

    problem: RankProblem
    sites: tuple[Site, ...]
    evidence: Evidence
    latency_ratio: Callable[[Site, int], float]

    def candidates(self, site: Site) -> list[int]:
        """The aligned ranks of a site, ascending."""
        options = self.problem.options[self.problem.sites.index(site.name)]
        return sorted(option.rank for option in options if option.rank is not None)

    def floor(self, site: Site, rank: float) -> int | None:
        """The largest aligned rank ≤ `rank` (never 0); dense past the last aligned rank's step.

        A rank at or above break-even saves nothing, so the layer stays dense.
        """
        ranks = self.candidates(site)
        if not ranks or rank >= site.in_features * site.out_features / (
            site.in_features + site.out_features
        ):
            return None
        return max((r for r in ranks if r <= rank), default=ranks[0])

    def at_keep_ratio(self, site: Site, keep_ratio: float) -> int | None:
        """The aligned rank that keeps at most `keep_ratio` of the layer's parameters."""
        k, n = site.in_features, site.out_features
        return self.floor(site, keep_ratio * k * n / (k + n))

    def allocation(self, plan: Plan, solver: str, lower_bound: float = 0.0) -> Allocation:
        """The plan as an allocation, with its costs and loss from the problem's options."""
        chosen = []
        for name, options in zip(self.problem.sites, self.problem.options, strict=True):
            wanted = plan.get(name)
            chosen.append(next(i for i, option in enumerate(options) if option.rank == wanted))
        return make_allocation(self.problem, chosen, lower_bound, solver)

    def fits(self, allocation: Allocation) -> bool:
        """Whether every budget holds."""
        return all(
            cost <= limit + _FIT * abs(limit)
            for cost, limit in zip(allocation.costs, self.problem.limits, strict=True)
        )

    def largest_fitting(self, plan_of: Callable[[float], Plan], solver: str) -> Allocation:
        """The plan of the largest t in [0, 1] found to fit, by bisection; 0 is the smallest model.

        Latency is a staircase, so `fits` need not be monotone in t: a coarse grid is looked at from
        above first, and the bisection refines between the best fitting point and the next. Layers
        step in the order of the model while there is room.

        Raises:
            BudgetInfeasibleError: not even t = 0 fits.
        """
        self.problem.require_feasible()

        def at(t: float) -> Allocation:
            return self.allocation(plan_of(t), solver)

        grid = [i / 16 for i in range(16, -1, -1)]
        best = next(((t, found) for t in grid if self.fits(found := at(t))), None)
        if best is None:
            raise BudgetInfeasibleError(
                f"allocator {solver}: even its smallest plan exceeds the budgets on "
                f"{', '.join(self.problem.resources)}",
                dict(zip(self.problem.resources, at(0.0).costs, strict=True)),
            )
        low, kept = best
        if low == 1.0:
            return kept
        high = min(1.0, low + 1 / 16)
        beyond = at(high)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            found = at(middle)
            if self.fits(found):
                low, kept = middle, found
            else:
                high, beyond = middle, found
        return self._step_towards(kept, beyond, solver)

    def _step_towards(self, kept: Allocation, beyond: Allocation, solver: str) -> Allocation:
        """Take of the next plan what still fits: aligned ranks move many layers at one t."""
        for name, rank in beyond.ranks.items():
            if rank != kept.ranks[name]:
                tried = self.allocation({**kept.ranks, name: rank}, solver)
                kept = tried if self.fits(tried) else kept
        return kept


class Allocator(ABC):
    """One rule.

    Contract (`autotune.testing.suites.allocator` checks it):
    - `allocate` returns a plan that meets every limit of the problem and gives every site one of
      the options it has there; loss and costs are sums over the chosen options.
    - It is deterministic: the same questions in the same order have the same plans.
    - What it learned it may keep between calls, since the closed loop asks again with corrected
      latencies: a plan may then depend on earlier questions, but keeps the limits of its own.
    - `lower_bound` ≤ optimum ≤ `loss`; rules without a certificate give 0.
    - The model belongs to the caller: after `allocate` it is dense, frozen and without hooks, also
      where it raised. One thread at a time may use an allocator and its evidence.
    """

    name: str

    @abstractmethod
    def allocate(self, question: Question) -> Allocation:
        """The plan.

        Raises:
            BudgetInfeasibleError: the rule reaches no plan within the limits.
        """


def blocks_of(sites: Sequence[Site]) -> dict[int | None, list[Site]]:
    """Sites by transformer block, in order; sites outside any block are under None."""
    found: dict[int | None, list[Site]] = {}
    for site in sites:
        found.setdefault(site.block, []).append(site)
    return dict(sorted(found.items(), key=lambda item: (item[0] is None, item[0] or 0)))
