"""One keep_ratio for every layer (SVD-LLM and ASVD; ranks floored, never past the budget)."""

from __future__ import annotations

from autotune.core.forms import Plan
from autotune.search.allocators.base import Allocator, Question
from autotune.search.problem import Allocation


class Uniform(Allocator):
    """Rank t·NK/(N+K) everywhere, the largest t that fits."""

    name = "uniform"

    def allocate(self, question: Question) -> Allocation:
        """Bisect the keep_ratio t to the largest that fits."""

        def plan_of(t: float) -> Plan:
            return {site.name: question.at_keep_ratio(site, t) for site in question.sites}

        return question.largest_fitting(plan_of, solver=self.name)
