"""The rank problem as a mixed-integer program for HiGHS, with any number of resources."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from autotune.errors import BudgetInfeasibleError
from autotune.search.problem import Allocation, RankProblem, make_allocation


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """HiGHS writes to file descriptor 1, where our JSON goes."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def solve_milp(
    problem: RankProblem, relative_gap: float = 1e-4, max_seconds: float = 30.0
) -> Allocation:
    """Solve to `relative_gap`, or return the best plan found when time runs out, with its bound.

    Raises:
        BudgetInfeasibleError: no plan meets all limits together.
    """
    problem.require_feasible()
    losses = np.array([option.loss for site in problem.options for option in site])
    costs = np.array([option.costs for site in problem.options for option in site])
    # HiGHS works with absolute tolerances: bring losses and costs to the order of one.
    loss_scale = max(float(losses.sum()) / len(problem.sites), 1e-300)
    limits = np.maximum(np.array(problem.limits), 1e-300)
    sizes = [len(site) for site in problem.options]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    pick_one = sparse.csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    constraints = [
        LinearConstraint(pick_one, 1, 1),
        LinearConstraint((costs / limits).T, -np.inf, np.ones(len(limits))),
    ]
    with _stdout_to_stderr():
        result = milp(
            losses / loss_scale,
            integrality=np.ones(len(losses), dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": relative_gap, "time_limit": max_seconds},
        )
    if result.x is None:
        raise BudgetInfeasibleError(
            f"no plan meets the budgets on {', '.join(problem.resources)} together",
            dict(zip(problem.resources, problem.least_costs().tolist(), strict=True)),
        )
    starts = np.concatenate([[0], np.cumsum(sizes)])
    chosen = [int(result.x[a:b].argmax()) for a, b in itertools.pairwise(starts)]
    bound = float(result.mip_dual_bound) * loss_scale
    return make_allocation(problem, chosen, bound, "milp")
