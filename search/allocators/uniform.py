"""One keep_ratio for every layer (SVD-LLM and ASVD; ranks floored, never past the budget)."""

from __future__ import annotations

from autotune.search.allocators.base import Allocator, Plan, Question
from autotune.search.problem import Allocation


class Uniform(Allocator):
    """Rank t·NK/(N+K) everywhere, the largest t that fits."""

    name = "uniform"

    def allocate(self, question: Question) -> Allocation:
        """Bisect t."""

        def plan_of(t: float) -> Plan:
            return {site.name: question.at_keep_ratio(site, t) for site in question.sites}

        return question.largest_fitting(plan_of, self.name)
