"""A quality floor: the plan of least latency that keeps it, by what plans really lose.

Plans are solved for one latency after another; which of them keep the floor is judged on the search
data, with an error for how few those are. What is handed out is then judged on held-out data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from autotune.compress.tasks.base import Batch
from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import Plan
from autotune.core.layers import LayerShape
from autotune.results.parts import Quality
from autotune.search.losses import PlanLosses
from autotune.search.outer import Knobs
from autotune.search.problem import Allocation
from autotune.tuning.decisions import guessed
from autotune.tuning.judging import quality_of
from autotune.tuning.loop import ClosedLoop
from autotune.tuning.planner import Corrections, Planner
from autotune.tuning.rounds import Round

# Targets are tried until they are this near to each other, as a share of the dense latency.
_RESOLUTION = 0.005
_TURNS = 4
_DOUBLINGS, _HALVINGS = 60, 60
_NONE_KEEPS = (
    "no plan within the other budgets keeps the quality floor; give a lower floor or looser budgets"
)


def loss_limit(keeps_rise: Callable[[float], bool]) -> float:
    """The largest rise of the mean loss that keeps a floor; minus infinity if none does.

    `keeps_rise` is monotone: no rise keeps it that is above one that does not.
    """
    if not keeps_rise(0.0):
        return -math.inf
    high = 1e-9
    for _ in range(_DOUBLINGS):
        if not keeps_rise(high):
            break
        high *= 2
    low = high / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps_rise(middle) else (low, middle)
    return low


@dataclass(frozen=True, kw_only=True)
class QualityFloor:
    """A floor as a limit on what plans lose on the search data.

    `limit` is the largest rise of the mean loss above the dense model's in its own dtype, of which
    `dtype_loss` is lost by the dtype that the network is run in; `judged` is the quality of a rise.
    """

    limit: float
    dtype_loss: float
    losses: PlanLosses
    judged: Callable[[float], Quality]

    def keeps(self, plan: Plan) -> bool:
        """Whether a plan surely keeps the floor; the dense one does if its dtype does."""
        return self.rise(plan) <= self.limit

    def rise(self, plan: Plan) -> float:
        """What the mean loss of a plan may be above the dense model's at most."""
        if all(form.is_unchanged for form in plan.values()):
            return self.dtype_loss
        return self.losses.highest_rise(plan) + self.dtype_loss


def make_floor(
    keeps: Callable[[Quality], bool],
    losses: PlanLosses,
    *,
    dtype_loss: float,
    batches: Sequence[Batch],
) -> QualityFloor:
    """What `keeps` asks of a quality, as a limit on the losses that `losses` finds on `batches`."""
    task, scale = losses.subject.task, losses.scale
    dense = losses.true_loss({}) - dtype_loss

    def judged(rise: float) -> Quality:
        return quality_of(
            task, dense=dense / scale, compressed=(dense + rise) / scale, batches=batches
        )

    return QualityFloor(
        limit=loss_limit(lambda rise: keeps(judged(rise))),
        dtype_loss=dtype_loss,
        losses=losses,
        judged=judged,
    )


def require_floor(floor: QualityFloor, planner: Planner, *, asked: str) -> None:
    """Check that the plan of least loss within the other budgets keeps the floor, as it was given.

    Raises:
        BudgetInfeasibleError: names the best quality, and the least latency that keeps the floor.
    """
    plan = planner.solve({}, margin=0.0).plan if planner.budget else {}
    if floor.keeps(plan):
        return
    best = floor.judged(floor.rise(plan))
    within = " within the other budgets" if planner.budget else ""
    message = (
        f"infeasible budget: quality {asked} was requested and the best plan{within} "
        f"has {best.metric} {best.compressed:.4g} on the search data (dense {best.dense:.4g})"
    )
    if planner.limits_latency:
        ratio = least_latency(planner, {}, corrections=planner.uncorrected, keeps=floor.keeps)
        if ratio is not None:
            message += f"; the least latency that keeps the floor is {ratio:.3f}x of dense"
    raise BudgetInfeasibleError(message, {})


def _unlimited(planner: Planner, knobs: Knobs, *, corrections: Corrections) -> float:
    """The latency of the plan of least loss within the other budgets, as a share of dense.

    Smaller networks may be slower.
    """
    network = planner.network.corrected(corrections)
    others = {name: limit for name, limit in planner.budget.items() if name != "latency"}
    if not others:
        return network.predict({}).ratio
    try:
        plan = replace(planner, budget=others).solve(knobs, corrections, margin=0.0).plan
    except BudgetInfeasibleError:
        return network.predict({}).ratio
    return network.predict(plan).ratio


def least_latency(
    planner: Planner, knobs: Knobs, *, corrections: Corrections, keeps: Callable[[Plan], bool]
) -> float | None:
    """The least ratio to the dense latency for which the planner's plan keeps a floor.

    None where the other budgets leave no plan that does.
    """

    def kept(ratio: float) -> bool:
        try:
            allocation = planner.within(ratio).solve(knobs, corrections, margin=0.0)
        except BudgetInfeasibleError:
            return False
        return keeps(allocation.plan)

    # A little above, since the sum of the dense layers is rounded.
    high = max(1.0, _unlimited(planner, knobs, corrections=corrections)) * (1 + 1e-9)
    low = planner.least_ratio(corrections)
    if not kept(high):
        return None
    while high - low > _RESOLUTION:
        middle = (low + high) / 2
        low, high = (low, middle) if kept(middle) else (middle, high)
    return high


@dataclass(frozen=True, kw_only=True)
class FloorLoop(ClosedLoop):
    """Rounds of the least latency that keeps a floor; each corrects what the next one predicts."""

    floor: QualityFloor

    @classmethod
    def of(cls, loop: ClosedLoop, floor: QualityFloor) -> FloorLoop:
        """The same parts with a floor."""
        parts = {each.name: getattr(loop, each.name) for each in fields(ClosedLoop)}
        return cls(**parts, floor=floor)

    def run(self, knobs: Knobs) -> list[Round]:
        """Rounds until the corrected prediction leads to no faster plan; at most `self.rounds`.

        A plan that is predicted within the interval of the fastest one is not built.

        Raises:
            BudgetInfeasibleError: no plan keeps the floor within the other budgets.
            MeasurementError: a network could not be timed.
        """
        rounds: list[Round] = []
        corrections, loop = self.planner.uncorrected, self
        while len(rounds) < self.rounds:
            try:
                loop, allocation = loop.fastest(knobs, corrections)
            except BudgetInfeasibleError:
                if not rounds:
                    raise
                break
            if rounds and not loop.promises_more(allocation, corrections, than=rounds):
                break
            rounds.append(loop.measured_round(allocation, corrections, number=len(rounds)))
            corrections = loop.learned(rounds[-1])
        return rounds

    def promises_more(
        self, allocation: Allocation, corrections: Corrections, *, than: Sequence[Round]
    ) -> bool:
        """Whether a plan is new, and predicted to be faster than what was measured may be."""
        fastest = self.preferred(than)[0].judged
        predicted = self.planner.network.corrected(corrections).predict(allocation.plan)
        is_new = all(each.allocation.plan != allocation.plan for each in than)
        return is_new and predicted.ratio < fastest.ratio_low

    def predict(self, knobs: Knobs) -> Round:
        """The fastest plan by prediction, built."""
        loop, allocation = self.fastest(knobs, self.planner.uncorrected)
        return loop.predicted_round(allocation)

    def fastest(self, knobs: Knobs, corrections: Corrections) -> tuple[FloorLoop, Allocation]:
        """The fastest plan that keeps the floor, and the loop that measured its forms.

        Measuring the forms of a plan may change which plan that is, a few times at most; a plan
        that does not keep the floor is none of them.

        Raises:
            BudgetInfeasibleError: no plan keeps the floor within the other budgets.
        """
        loop, tried = self, set[LayerShape]()
        for _ in range(_TURNS):
            ratio = least_latency(
                loop.planner, knobs, corrections=corrections, keeps=self.floor.keeps
            )
            if ratio is None:
                raise BudgetInfeasibleError(_NONE_KEEPS, {})
            found = loop.planner.within(ratio).solve(knobs, corrections, margin=0.0)
            guesses = set(guessed(loop.planner.network, found.plan)) - tried
            if not guesses:
                break
            tried |= guesses
            loop = loop.having_timed(guesses)
        # Latency has no limit, and is none of the costs.
        costs = loop.planner.allocation(found.plan, name="").costs
        return loop, replace(found, costs=costs)

    def preferred(self, rounds: Sequence[Round]) -> list[Round]:
        """All of them keep the floor: the fastest first."""
        return sorted(rounds, key=lambda each: each.judged.ratio)
