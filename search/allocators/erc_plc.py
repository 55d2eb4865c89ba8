"""ERC's partial-layer compression: only the last k blocks (ERC-SVD, §3.3; docs/methods/erc.md)."""

from __future__ import annotations

from typing import Annotated

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import DENSE, Plan
from autotune.core.layers import Site
from autotune.core.plugin_options import Bounds
from autotune.search.allocators.base import Allocator, Question, blocks_of
from autotune.search.problem import Allocation


class ErcPlc(Allocator):
    """The first N−k blocks stay dense, the last k share R_l = N·R_o/k; k by the final hidden error.

    k runs over {s, 2s, …}; R_l is bisected until the budgets hold, k with the least error of the
    final hidden states on the search batch wins.
    """

    name = "erc-plc"

    def __init__(self, step: Annotated[int, Bounds(ge=1, le=10_000)] | None = None) -> None:
        self.step = step

    def allocate(self, question: Question) -> Allocation:
        """Try every k and keep the plan whose final hidden states are off least."""
        blocks = list(blocks_of(question.sites).items())
        count = len(blocks)
        step = self.step or max(1, count // 8)
        found: list[Allocation] = []
        failure: BudgetInfeasibleError | None = None
        for k in sorted({*range(step, count, step), count}):
            last = {site for _, sites in blocks[count - k :] for site in sites}
            try:
                found.append(self._last(question, last))
            except BudgetInfeasibleError as error:
                failure = error
        if not found:
            assert failure is not None
            raise failure
        return min(found, key=lambda a: question.evidence.feature_error(a.plan))

    def _last(self, question: Question, last: set[Site]) -> Allocation:
        def plan_of(t: float) -> Plan:
            return {
                site.name: question.at_keep_ratio(site, t) if site in last else DENSE
                for site in question.sites
            }

        return question.largest_fitting(plan_of, solver=self.name)
