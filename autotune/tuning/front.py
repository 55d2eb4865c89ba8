"""The front: plans between the fastest of use and the dense network, all measured in one run."""

from __future__ import annotations

import numpy as np

from autotune.core.errors import BudgetInfeasibleError
from autotune.search.outer import Knobs
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
    low = least_latency(planner, knobs, planner.uncorrected, keeps=useful.keeps)
    if low is None:
        return []
    high = planner.network.predict({}).ratio
    return [float(ratio) for ratio in np.linspace(min(low, high), high, count)]


def front_rounds(
    loop: ClosedLoop, knobs: Knobs, *, count: int, useful: QualityFloor
) -> dict[str, Round]:
    """The best plan for each of `count` latencies, built and timed, by name.

    Where two latencies have the same plan, it is there once.

    Raises:
        MeasurementError: a network could not be timed.
    """
    found: dict[str, Round] = {}
    with loop.workspace.stage("choose the plans of the front"):
        targets = front_targets(loop.planner, knobs, count=count, useful=useful)
    for target in targets:
        within = loop.on(loop.planner.within(target))
        try:
            _, allocation = within.settled(knobs, loop.planner.uncorrected, margin=0.0)
        except BudgetInfeasibleError:  # of other budgets
            continue
        if all(each.allocation.plan != allocation.plan for each in found.values()):
            name = f"front at {target:.3f}"
            found[name] = loop.measured_plan(allocation.plan, name=name)
    return found
