"""The front: plans between the fastest of use and the dense network, all measured in one run."""

from __future__ import annotations

import numpy as np

from autotune.core.errors import AutotuneError, BudgetInfeasibleError
from autotune.core.layers import LayerShape
from autotune.search.outer import Knobs
from autotune.search.problem import Allocation
from autotune.tuning.decisions import guessed
from autotune.tuning.floor import QualityFloor, least_latency
from autotune.tuning.loop import ClosedLoop
from autotune.tuning.planner import Planner
from autotune.tuning.rounds import Round


def front_targets(
    planner: Planner, knobs: Knobs, *, count: int, useful: QualityFloor
) -> list[float]:
    """Latencies as shares of the dense one, from the least that is `useful` to the dense network's.

    None where no plan within the budgets is of use.
    """
    low = least_latency(planner, knobs, corrections=planner.uncorrected, keeps=useful.keeps)
    if low is None:
        return []
    high = planner.network.predict({}).ratio
    return [float(ratio) for ratio in np.linspace(min(low, high), high, count)]


def front_rounds(
    loop: ClosedLoop, knobs: Knobs, *, count: int, useful: QualityFloor
) -> dict[str, Round]:
    """The best plan for each of `count` latencies, built and timed, by name.

    Where two latencies have the same plan, it is there once; one that cannot be built or timed is
    left out, and said so.
    """
    found: dict[str, Round] = {}
    with loop.workspace.stage("choose the plans of the front"):
        targets = front_targets(loop.planner, knobs, count=count, useful=useful)
    for target in targets:
        loop, allocation = _fastest_at(loop, target, knobs=knobs)
        if any(each.allocation.plan == allocation.plan for each in found.values()):
            continue
        name = f"front at {target:.3f}"
        try:
            found[name] = loop.measured_plan(allocation.plan, name=name)
        except AutotuneError as error:
            loop.workspace.note(f"{name} was not measured: {error}")
    return found


def _fastest_at(loop: ClosedLoop, target: float, *, knobs: Knobs) -> tuple[ClosedLoop, Allocation]:
    """The best plan for a latency, and the loop that measured its forms.

    Where these turn out slower than was guessed, the best plan for the least latency there is.
    """
    tried = set[LayerShape]()
    while True:
        planner, corrections = loop.planner, loop.planner.uncorrected
        try:
            allocation = planner.within(target).solve(knobs, corrections, margin=0.0)
        except BudgetInfeasibleError:
            least = planner.least_ratio(corrections) * (1 + 1e-9)
            allocation = planner.within(least).solve(knobs, corrections, margin=0.0)
        guesses = set(guessed(planner.network, allocation.plan)) - tried
        if not guesses:
            return loop, allocation
        tried |= guesses
        loop = loop.having_timed(guesses)
