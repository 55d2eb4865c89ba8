"""The plan problem as a mixed-integer program for HiGHS, with any number of resources."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from autotune.core.errors import BudgetInfeasibleError
from autotune.search.problem import Allocation, PlanProblem, make_allocation
from autotune.search.relaxation import Tables

_CORE_OPTIONS = 4


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """HiGHS writes debugging lines to file descriptor 1, where our JSON goes."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


class _Program:
    """The columns of a problem: one binary variable for each option of each site and joint site."""

    def __init__(self, problem: PlanProblem) -> None:
        self.problem = problem
        rows = problem.all_options
        self.losses = np.array([option.loss for row in rows for option in row])
        self.costs = np.array([option.costs for row in rows for option in row])
        self.sizes = [len(row) for row in rows]
        self.covers: list[tuple[int, ...]] = [(i,) for i in range(len(problem.sites))]
        self.covers += [joint.members for joint in problem.joint]

    def pick_one(self, extra: int = 0) -> LinearConstraint:
        """Every site covered exactly once, with `extra` columns that take no part."""
        rows: list[int] = []
        columns: list[int] = []
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        for row, sites in enumerate(self.covers):
            for site in sites:
                columns += range(starts[row], starts[row + 1])
                rows += [site] * self.sizes[row]
        shape = (len(self.problem.sites), len(self.losses) + extra)
        return LinearConstraint(
            sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape), 1, 1
        )

    def chosen(self, x: NDArray[np.float64]) -> list[int | None]:
        """The option picked of each site and joint site, None where it takes no part."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        return [
            int(x[a:b].argmax()) if x[a:b].max(initial=0.0) > 0.5 else None
            for a, b in itertools.pairwise(starts)
        ]


def solve_milp(
    problem: PlanProblem, *, relative_gap: float = 1e-4, max_seconds: float = 30.0
) -> Allocation:
    """Solve to `relative_gap`, or return the best plan found when time runs out, with its bound.

    The linear relaxation gives multipliers, and they a rigorous dual bound and what each option
    would cost beyond it. The program is solved first over the few most promising options, then over
    those that the plan found does not rule out: at 224 sites, 64 ranks and two budgets that takes
    0.5 s instead of 6.

    Raises:
        BudgetInfeasibleError: no plan meets all limits together.
    """
    problem.require_feasible()
    program = _Program(problem)
    tables, limits = Tables.of(problem), np.array(problem.limits)
    # HiGHS works with absolute tolerances: bring costs and the plan's loss to the order of one.
    # What that loss is the bound tells; the first starts from the mean of all options.
    scale = max(float(program.losses.sum()) / len(problem.sites), 1e-300)
    multipliers = _multipliers(program, scale)
    bound = tables.bound(multipliers, limits)
    if 0.0 < bound < 0.1 * scale:
        scale = bound
        finer = _multipliers(program, scale)
        # An option's excess counts from the bound of the same multipliers, so they go together.
        if tables.bound(finer, limits) > bound:
            multipliers, bound = finer, tables.bound(finer, limits)
    excess = tables.excess(multipliers)
    columns = np.concatenate([row[:size] for row, size in zip(excess, program.sizes, strict=True)])
    core = min(_CORE_OPTIONS * len(problem.sites), len(columns) - 1)
    keep = columns <= np.partition(columns, core)[core]
    effort = {"relative_gap": relative_gap, "max_seconds": max_seconds}
    first = None
    try:
        x, _ = _minimise(program, scale=scale, keep=keep, **effort)
    except BudgetInfeasibleError:
        keep = np.ones(len(columns), dtype=bool)
    else:
        first = make_allocation(problem, program.chosen(x), lower_bound=bound, solver="milp")
        if first.loss - bound <= relative_gap * first.loss:
            return first
        keep = columns <= first.loss - bound + relative_gap * scale
    found = _solved(program, bound, scale=scale, keep=keep, **effort)
    if 0.0 < found.loss < 0.1 * scale:  # the bound was too low to tell
        found = _solved(program, bound, scale=found.loss, keep=keep, **effort)
    # What was ruled out is no better than the first plan, so the bound is the whole program's; out
    # of time, the first plan may be the better one.
    if first is not None and first.loss < found.loss:
        return replace(first, lower_bound=min(found.lower_bound, first.loss))
    return found


def _solved(
    program: _Program, bound: float, *, scale: float, keep: NDArray[np.bool_], **effort: float
) -> Allocation:
    """The plan over the columns `keep`, with the better of `bound` and the program's own bound."""
    x, dual = _minimise(program, scale=scale, keep=keep, **effort)
    return make_allocation(
        program.problem, program.chosen(x), lower_bound=max(bound, dual), solver="milp"
    )


def _within(program: _Program) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows of costs / limits, and the limits."""
    limits = np.maximum(np.array(program.problem.limits), 1e-300)
    return (program.costs / limits).T, limits


def _multipliers(program: _Program, scale: float) -> NDArray[np.float64]:
    """The prices of the resources at the linear relaxation's optimum (0 where it has none)."""
    rows, limits = _within(program)
    cover = program.pick_one()
    with _silent_stdout():
        result: Any = linprog(  # type: ignore[call-overload]  # the stubs know dense matrices only
            program.losses / scale,
            A_ub=rows,
            b_ub=np.ones(len(limits)),
            A_eq=cover.A,
            b_eq=np.ones(len(program.problem.sites)),
            bounds=(0, 1),
            method="highs",
        )
    if result.x is None:
        return np.zeros(len(limits))
    prices: NDArray[np.float64] = np.maximum(-result.ineqlin.marginals, 0.0) * scale / limits
    return prices


def _minimise(
    program: _Program,
    *,
    scale: float,
    keep: NDArray[np.bool_],
    relative_gap: float,
    max_seconds: float,
) -> tuple[NDArray[np.float64], float]:
    """The variables and the dual bound over the columns `keep`, losses divided by `scale`."""
    problem = program.problem
    rows, limits = _within(program)
    within = LinearConstraint(rows, -np.inf, np.ones(len(limits)))
    with _silent_stdout():
        result = milp(
            program.losses / scale,
            integrality=np.ones(len(program.losses), dtype=np.int64),
            bounds=Bounds(0, keep.astype(np.float64)),
            constraints=[program.pick_one(), within],
            options={"mip_rel_gap": relative_gap, "time_limit": max_seconds},
        )
    if result.x is None:
        raise BudgetInfeasibleError(
            f"no plan meets the budgets on {', '.join(problem.resources)} together",
            dict(zip(problem.resources, problem.least_costs().tolist(), strict=True)),
        )
    return result.x, float(result.mip_dual_bound) * scale


def solve_nearest(
    problem: PlanProblem, rest: Sequence[float], *, max_seconds: float = 10.0
) -> Allocation:
    """The plan that exceeds its limits by the least common share, for limits that conflict.

    `rest[j]` is what the network uses of resource j outside the sites; the share is of the whole
    network's limit: minimise t with cost_j + rest_j ≤ (1 + t)·(limit_j + rest_j) for every j.
    """
    program = _Program(problem)
    whole = np.maximum(np.array(problem.limits) + np.array(rest), 1e-300)
    columns = len(program.losses)
    over = np.hstack([(program.costs / whole).T, -np.ones((len(whole), 1))])
    with _silent_stdout():
        result = milp(
            np.concatenate([np.zeros(columns), [1.0]]),
            integrality=np.concatenate([np.ones(columns), [0.0]]),
            bounds=Bounds(0, np.concatenate([np.ones(columns), [np.inf]])),
            constraints=[
                program.pick_one(extra=1),
                LinearConstraint(over, -np.inf, 1.0 - np.array(rest) / whole),
            ],
            options={"mip_rel_gap": 1e-3, "time_limit": max_seconds},
        )
    assert result.x is not None, "always feasible: t is unbounded"
    return make_allocation(
        problem, program.chosen(result.x[:columns]), lower_bound=0.0, solver="nearest"
    )
