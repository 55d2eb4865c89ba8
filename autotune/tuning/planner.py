"""The planner: everything a plan is solved from, and how close a measured plan is to its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import DENSE, Form, Plan
from autotune.core.layers import Site, chosen_sites
from autotune.core.progress import Advance, no_progress
from autotune.core.quantities import Quantity
from autotune.predictor.network.model import NetworkModel
from autotune.results.verdict import latency_limit
from autotune.search.allocators.base import Allocator, Question
from autotune.search.evidence import Evidence
from autotune.search.exact import solve_exact
from autotune.search.outer import Knobs, error_multiplier
from autotune.search.problem import Allocation, PlanProblem
from autotune.search.sensitivity import Scales, scale_of, sensitivity_pass
from autotune.search.tables import (
    ErrorTable,
    Resources,
    build_problem,
    count_resources,
    explain_infeasible,
    live_bytes,
    site_costs,
)
from autotune.tuning.model import TracedModel

# What measured networks taught: a factor on the predicted saving of every phase.
Corrections = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Solves for plans; only the outer knobs, the corrections and the margin vary between calls.

    `scales` come from the sensitivity pass: a factor on the errors of every site. `margin` is how
    far below the latency limit plans aim, as a share of it. `dtype_loss` is what every plan loses
    by the dtype that the network is run in.
    """

    model: TracedModel
    errors: ErrorTable
    network: NetworkModel
    totals: Resources
    budget: Mapping[str, Quantity]
    allocator: Allocator
    evidence: Evidence
    storage: str
    margin: float
    scales: Scales = field(default_factory=dict)
    dtype_loss: float = 0.0

    @property
    def limits(self) -> dict[str, float]:
        """Absolute limits by resource, relative ones resolved with the dense model's use."""
        return {name: q.resolve(self.totals.dense[name]) for name, q in self.budget.items()}

    @property
    def limits_latency(self) -> bool:
        """Whether there is a latency budget."""
        return "latency" in self.budget

    @property
    def uncorrected(self) -> Corrections:
        """The latency table as it is."""
        return (1.0,) * len(self.network.phases)

    def scale(self, site: Site) -> float:
        """The factor that the sensitivity pass put on the errors of a site or joint site."""
        return scale_of(site, dict.fromkeys(site.layers, 1.0) | dict(self.scales))

    def error(self, site: Site, form: Form) -> float:
        """The error of a form with the factor on it; a joint site's dense one is its layers'."""
        if form.is_dense and site.members:
            return sum(self.errors[n][form] * self.scales.get(n, 1.0) for n in site.members)
        return self.errors[site.name][form] * self.scale(site)

    def problem(
        self, knobs: Knobs, corrections: Corrections | None = None, *, margin: float = 0.0
    ) -> PlanProblem:
        """The plan problem under these knobs and corrections, `margin` below the latency limit."""
        blocks = 1 + max((site.block or 0) for site in self.model.single)
        scaled = {
            site.name: {
                form: self.error(site, form) * error_multiplier(site, knobs, blocks=blocks)
                for form in self.errors[site.name]
            }
            for site in self.model.choices
        }
        limits = self.limits
        if "latency" in limits:
            limits["latency"] *= 1.0 - margin
        return build_problem(
            self.model.single,
            errors=scaled,
            network=self.network.corrected(corrections or self.uncorrected),
            totals=self.totals,
            limits=limits,
            storage=self.storage,
            joint=self.model.joint,
        )

    def solve(
        self,
        knobs: Knobs,
        corrections: Corrections | None = None,
        *,
        margin: float | None = None,
        progress: Advance = no_progress,
    ) -> Allocation:
        """The allocator's plan, aiming `margin` below the latency limit (None: the planner's).

        Raises:
            BudgetInfeasibleError: no plan meets the budgets; names the reachable minimum.
        """
        wanted = self.margin if margin is None else margin
        try:
            problem = self.problem(knobs, corrections, margin=wanted)
            return self._allocate(problem, corrections, progress=progress)
        except BudgetInfeasibleError:
            # The margin is ours, not the user's: give it up before refusing.
            try:
                return self._allocate(
                    self.problem(knobs, corrections), corrections, progress=progress
                )
            except BudgetInfeasibleError:
                # Where some plan exists, it is the rule that reaches none, and its message stands.
                self.require_feasible(corrections)
                raise

    def require_feasible(self, corrections: Corrections | None = None) -> None:
        """Check the budgets with the exact solver, whatever allocator will be used.

        Raises:
            BudgetInfeasibleError: no plan at all meets them.
        """
        if not self.budget:
            return
        problem = self.problem({}, corrections)
        try:
            solve_exact(problem)
        except BudgetInfeasibleError as error:
            raise explain_infeasible(problem, self.totals, limits=self.limits) from error

    def within(self, ratio: float) -> Planner:
        """The planner with a limit on the latency, as a share of the dense one's, in its place."""
        limit = Quantity(value=ratio, relative=True, text=f"{ratio:g}x")
        return replace(self, budget={**self.budget, "latency": limit})

    def least_ratio(self, corrections: Corrections | None = None) -> float:
        """The least latency that a plan may have, as a share of the dense one's."""
        problem = self.within(1.0).problem({}, corrections)
        least = problem.least_costs()[problem.resources.index("latency")]
        return float(least + self.totals.rest["latency"]) / self.totals.dense["latency"]

    def hoped_for(self, network: NetworkModel, knobs: Knobs, *, corrections: Corrections) -> Plan:
        """The exact solver's plan if layers took what `network` predicts, without a margin."""
        return solve_exact(replace(self, network=network).problem(knobs, corrections)).plan

    def table_loss(self, plan: Plan) -> float:
        """Predicted loss of a plan by the table that plans are compared on, without knobs."""
        return self.dtype_loss + sum(
            self.error(site, form)
            for site, form in chosen_sites(self.model.choices, plan)
            if not form.is_unchanged
        )

    def allocation(self, plan: Plan, *, name: str) -> Allocation:
        """A plan that no allocator chose, with what it costs; `name` stands for the solver."""
        resources = self.problem({}).resources
        costs = [
            site_costs(site, form, network=self.network, resources=resources, storage=self.storage)
            for site, form in chosen_sites(self.model.choices, plan)
        ]
        return Allocation(
            plan=plan,
            loss=self.table_loss(plan) - self.dtype_loss,
            costs=tuple(map(sum, zip(*costs, strict=True))),
            lower_bound=0.0,
            solver=name,
        )

    def fits(self, allocation: Allocation) -> bool:
        """Whether a plan is within every limit but that on latency, which is measured."""
        problem = self.problem({})
        rows = zip(problem.resources, allocation.costs, problem.limits, strict=True)
        # Sums of a plan that is at the limit are rounded.
        return all(cost <= limit * (1 + 1e-9) for n, cost, limit in rows if n != "latency") and (
            self.peak_bytes(allocation.plan) <= self.limits.get("activation_bytes", math.inf)
        )

    def peak_bytes(self, plan: Plan) -> float:
        """The most bytes that one layer under a plan keeps at once."""
        return max(
            live_bytes(site, form, dtype=self.network.dtype)
            for site, form in chosen_sites(self.model.choices, plan)
        )

    def rescaled(self, rounds: int, progress: Advance) -> Planner:
        """The planner after `rounds` of the sensitivity pass (search/sensitivity.py)."""
        scales = sensitivity_pass(
            self.model.choices,
            errors=self.errors,
            solve=lambda scales: replace(self, scales=scales).solve({}),
            judge=self.evidence.losses,
            rounds=rounds,
            progress=progress,
        )
        return replace(self, scales=scales)

    def _allocate(
        self, problem: PlanProblem, corrections: Corrections | None, *, progress: Advance
    ) -> Allocation:
        network = self.network.corrected(corrections or self.uncorrected)

        def latency_ratio(site: Site, form: Form) -> float:
            return network.site_latency_s(site, form) / network.site_latency_s(site, DENSE)

        return self.allocator.allocate(
            Question(
                problem=problem,
                sites=self.model.single,
                evidence=self.evidence,
                latency_ratio=latency_ratio,
                progress=progress,
            )
        )

    def limit_ratio(self, dense_latency_s: float) -> float | None:
        """The ratio to dense that the latency budget allows where dense takes `dense_latency_s`.

        None without a latency budget.
        """
        quantity = self.budget.get("latency")
        return latency_limit(quantity.text if quantity else None, dense_latency_s)


def count_totals(model: TracedModel, network: NetworkModel) -> Resources:
    """What the dense model uses of every resource."""
    dtype = network.weight_dtype
    return count_resources(
        model.single,
        network,
        parameters=model.parameters,
        weight_bytes=model.weight_bytes(dtype),
        kv_cache_bytes=model.kv_cache_bytes(dtype),
    )
