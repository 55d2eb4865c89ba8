"""How forms are chosen: one contract for the exact solver and for the papers' rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import DENSE, Form, Plan, low_rank
from autotune.core.layers import Site
from autotune.core.progress import Advance, no_progress
from autotune.search.evidence import Evidence
from autotune.search.problem import Allocation, Option, PlanProblem, make_allocation

_FIT = 1e-9
_STEPS = 48


@dataclass(frozen=True, kw_only=True)
class Question:
    """A plan problem with every candidate form in it, and what else a rule may ask.

    The papers' rules choose ranks of plain pairs in native precision; other forms of the problem
    are for the exact solver. `latency_ratio(site, form)` is latency recovery from the table: above
    1 is slower than dense. `progress` takes (done, total) of a long search or training.
    """

    problem: PlanProblem
    sites: tuple[Site, ...]
    evidence: Evidence
    latency_ratio: Callable[[Site, Form], float]
    progress: Advance = no_progress

    def options(self, site: Site) -> tuple[Option, ...]:
        """What the problem offers for a site."""
        return self.problem.options[self.problem.sites.index(site.name)]

    def ranks(self, site: Site) -> list[int]:
        """The aligned ranks at which a site may be a plain pair in native precision, ascending."""
        forms = [option.form for option in self.options(site)]
        return sorted(form.rank for form in forms if form.rank and not form.suffix)

    def floor(self, site: Site, rank: float) -> Form:
        """The pair of the largest aligned rank ≤ `rank`, or of the smallest aligned one.

        A rank at or above break-even saves nothing: the layer stays dense.
        """
        ranks = self.ranks(site)
        if not ranks or rank >= site.in_features * site.out_features / (
            site.in_features + site.out_features
        ):
            return DENSE
        return low_rank(max((r for r in ranks if r <= rank), default=ranks[0]))

    def at_keep_ratio(self, site: Site, keep_ratio: float) -> Form:
        """The pair of an aligned rank that keeps at most `keep_ratio` of the layer's parameters."""
        k, n = site.in_features, site.out_features
        return self.floor(site, keep_ratio * k * n / (k + n))

    def allocation(self, plan: Plan, *, solver: str, lower_bound: float = 0.0) -> Allocation:
        """The plan as an allocation, with its costs and loss from the problem's options."""
        chosen = []
        for name, options in zip(self.problem.sites, self.problem.options, strict=True):
            wanted = plan.get(name, DENSE)
            chosen.append(next(i for i, option in enumerate(options) if option.form == wanted))
        return make_allocation(self.problem, chosen, lower_bound=lower_bound, solver=solver)

    def fits(self, allocation: Allocation) -> bool:
        """Whether an allocation holds every budget, up to rounding."""
        return all(
            cost <= limit + _FIT * abs(limit)
            for cost, limit in zip(allocation.costs, self.problem.limits, strict=True)
        )

    def largest_fitting(self, plan_of: Callable[[float], Plan], *, solver: str) -> Allocation:
        """The plan of the largest t in [0, 1] found to fit, by bisection; 0 is the smallest model.

        Latency is a staircase, so `fits` need not be monotone in t: a coarse grid is looked at from
        above first, and the bisection refines between the best fitting point and the next. Layers
        step in the order of the model while there is room.

        Raises:
            BudgetInfeasibleError: not even t = 0 fits.
        """
        self.problem.require_feasible()

        def at(t: float) -> Allocation:
            return self.allocation(plan_of(t), solver=solver)

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
        return self._step_towards(kept, beyond, solver=solver)

    def _step_towards(self, kept: Allocation, beyond: Allocation, *, solver: str) -> Allocation:
        """Take of the next plan what still fits: aligned ranks move many layers at one t."""
        for name, form in beyond.plan.items():
            if form != kept.plan[name]:
                tried = self.allocation({**kept.plan, name: form}, solver=solver)
                kept = tried if self.fits(tried) else kept
        return kept


class Allocator(ABC):
    """A rule that chooses a form for every site.

    Contract: `allocate` returns a plan that meets every limit of the problem over its candidates
    and dense, deterministically. What it learns about the model (not about the limits) it may keep
    between calls: the closed loop asks again with corrected latencies. `lower_bound` is the
    certificate of those that have one, else 0.
    """

    name: str

    @abstractmethod
    def allocate(self, question: Question) -> Allocation:
        """The plan that the rule chooses within the limits of `question.problem`.

        Raises:
            BudgetInfeasibleError: the rule reaches no plan within the limits.
        """


def blocks_of(sites: Sequence[Site]) -> dict[int | None, list[Site]]:
    """Sites by transformer block, in order; sites outside any block are under None."""
    found: dict[int | None, list[Site]] = {}
    for site in sites:
        found.setdefault(site.block, []).append(site)
    return dict(sorted(found.items(), key=lambda item: (item[0] is None, item[0] or 0)))
