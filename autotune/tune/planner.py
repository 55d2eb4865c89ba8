"""Choose: everything a plan is solved from, and how a measured plan is judged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.types import Estimate, Site, chosen_units
from autotune.predictor.network.model import NetworkModel, PassModel
from autotune.results.measured import Measured, MeasuredPass
from autotune.search.allocators import make_allocator
from autotune.search.allocators.base import Question
from autotune.search.evidence import Evidence
from autotune.search.exact import solve_exact
from autotune.search.outer import Knobs, error_multiplier
from autotune.search.problem import Allocation, RankProblem
from autotune.search.sensitivity import Scales, scale_of, sensitivity_pass
from autotune.search.tables import ErrorTable, Resources, build_problem, explain_infeasible
from autotune.tune.context import Context

# What measured networks taught: a factor on the predicted saving of every pass.
Corrections = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One turn of the loop.

    The plan, the corrected network model that it was solved with, and what was measured of the
    `artefacts` (by pass) that were built from it; None where the device is elsewhere.
    """

    allocation: Allocation
    network: NetworkModel
    measured: Measured | None
    artefacts: Mapping[str, Path]

    @property
    def judged(self) -> Measured:
        """What budgets are judged by: measured, else as predicted."""
        return self.measured or predicted_as_measured(self.network, self.allocation.ranks)

    @property
    def predicted(self) -> Estimate:
        """What the corrected model says of the plan."""
        return self.network.predict(self.allocation.ranks)

    @property
    def corrections(self) -> Corrections:
        """What the model had learned from earlier rounds."""
        return tuple(one.correction for one in self.network.passes)


def predicted_as_measured(network: NetworkModel, ranks: Mapping[str, int | None]) -> Measured:
    """What a measurement would show if the prediction were right, with its 90 % interval."""

    def one(model: PassModel) -> MeasuredPass:
        found, dense_s = model.predict(ranks), model.anchor.latency_s
        low, high = model.ratio_interval(ranks)
        return MeasuredPass(
            name=model.name, count=model.count, latency_s=found.latency_s,
            dense_latency_s=dense_s, ratio=found.ratio, ratio_low=low, ratio_high=high,
        )  # fmt: skip

    return Measured(passes=tuple(one(model) for model in network.passes))


class Planner:
    """Solves for ranks with everything but the latency correction and the knobs fixed."""

    def __init__(
        self, context: Context, errors: ErrorTable, network: NetworkModel, totals: Resources,
        evidence: Evidence,
    ) -> None:  # fmt: skip
        self.context = context
        self.evidence = evidence
        self.allocator = make_allocator(context.request.chosen_allocator)
        self.errors = errors
        self.scales: Scales = {site.name: 1.0 for site in context.sites.sites}
        self.network = network
        self.totals = totals
        quantities = context.request.budget.limits()
        self.limits = {name: q.resolve(totals.dense[name]) for name, q in quantities.items()}
        latency = quantities.get("latency")
        self.relative = latency.value if latency and latency.relative else None

    @property
    def uncorrected(self) -> Corrections:
        """The latency table as it is."""
        return (1.0,) * len(self.network.passes)

    def hoped_for(self, network: NetworkModel, knobs: Knobs) -> Mapping[str, int | None]:
        """The exact solver's plan if layers took what `network` says, without a margin."""
        other = copy.copy(self)
        other.network = network
        return solve_exact(other.problem(knobs, self.uncorrected, 0.0)).ranks

    def problem(self, knobs: Knobs, corrections: Corrections, margin: float) -> RankProblem:
        """The rank problem under these knobs and corrections of the latency table."""
        blocks = 1 + max((s.block or 0) for s in self.context.sites.sites)
        scaled = {
            unit.name: {
                rank: error * scale_of(unit, self.scales) * error_multiplier(unit, knobs, blocks)
                for rank, error in self.errors[unit.name].items()
            }
            for unit in self.context.units
        }
        limits = dict(self.limits)
        if "latency" in limits:
            limits["latency"] *= 1.0 - margin
        network = self.network.corrected(corrections)
        totals = self.totals
        options = {unit.name: sorted(self.errors[unit.name]) for unit in self.context.units}
        return build_problem(
            self.context.sites.sites, scaled, options, network, totals, limits,
            self.context.request.method.storage, self.context.joint,
        )  # fmt: skip

    def solve(
        self, knobs: Knobs, corrections: Corrections | None = None, margin: float | None = None
    ) -> Allocation:
        """The allocator's plan, aiming `margin` below the latency limit (None: the request's).

        Raises:
            BudgetInfeasibleError: no plan meets the budgets; names the reachable minimum.
        """
        wanted = self.context.request.search.margin if margin is None else margin
        corrections = corrections or self.uncorrected
        problem = self.problem(knobs, corrections, wanted)
        try:
            return self._allocate(problem, corrections)
        except BudgetInfeasibleError:
            # The margin is ours, not the user's: give it up before refusing.
            problem = self.problem(knobs, corrections, 0.0)
            try:
                return self._allocate(problem, corrections)
            except BudgetInfeasibleError:
                # Where some plan exists it is the rule that reaches none: its own words stand.
                self.require_feasible(corrections)
                raise

    def require_feasible(self, corrections: Corrections | None = None) -> None:
        """Check the budgets against the exact solver, whatever allocator will be used.

        Raises:
            BudgetInfeasibleError: no plan at all meets them.
        """
        problem = self.problem({}, corrections or self.uncorrected, 0.0)
        try:
            solve_exact(problem)
        except BudgetInfeasibleError as error:
            raise explain_infeasible(problem, self.totals, self.limits) from error

    def table_loss(self, ranks: Mapping[str, int | None]) -> float:
        """Predicted loss of a plan by the table that plans are compared on: no knobs."""
        return sum(
            self.errors[unit.name][rank] * scale_of(unit, self.scales)
            for unit, rank in chosen_units(self.context.units, ranks)
            if rank is not None
        )

    def rescale(self, rounds: int, progress: Callable[[int, int], None]) -> None:
        """Run the sensitivity pass and keep its scales for every later solution."""

        def solve(scales: Scales) -> Allocation:
            self.scales = scales
            return self.solve({})

        self.scales = sensitivity_pass(
            self.context.units, self.errors, solve, self.evidence,
            rounds=rounds, progress=progress,
        )  # fmt: skip

    def _allocate(self, problem: RankProblem, corrections: Corrections) -> Allocation:
        network = self.network.corrected(corrections)

        def latency_ratio(site: Site, rank: int) -> float:
            return network.site_latency_s(site, rank) / network.site_latency_s(site, None)

        return self.allocator.allocate(
            Question(
                problem=problem, sites=self.context.sites.sites, evidence=self.evidence,
                latency_ratio=latency_ratio,
            )
        )  # fmt: skip

    def within(self, outcome: Round) -> bool:
        """Whether the latency meets its budget (the other budgets hold by count).

        Without a latency budget the model must at least not be measurably slower than dense.
        """
        if "latency" not in self.limits:
            return outcome.judged.ratio_low <= 1.0
        return outcome.judged.ratio <= self.target(outcome)

    def surely_within(self, outcome: Round) -> bool:
        """The same for the upper end of the interval: what the loop works towards."""
        if "latency" not in self.limits:
            return self.within(outcome)
        return outcome.judged.ratio_high <= self.target(outcome)

    def target(self, outcome: Round) -> float:
        """The ratio to dense that the latency budget allows in this measurement."""
        if self.relative is not None:
            return self.relative
        return self.limits["latency"] / outcome.judged.dense_latency_s
