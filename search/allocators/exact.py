"""The exact plan of the error table (docs/methods/default.md)."""

from __future__ import annotations

from autotune.search.allocators.base import Allocator, Question
from autotune.search.exact import solve_exact
from autotune.search.problem import Allocation


class Exact(Allocator):
    """Least Σ loss within every limit, with its certified gap."""

    name = "exact"

    def allocate(self, question: Question) -> Allocation:
        """Solve the multiple-choice knapsack problem to its optimum."""
        return solve_exact(question.problem)
