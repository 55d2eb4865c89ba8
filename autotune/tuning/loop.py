"""The closed loop: solve, build, measure, correct, until a plan holds that was measured.

The latency table is made of single layers, and a network is more than their sum. So every plan is
built and timed alternately with the dense network; where the prediction was off, the predicted
saving of each phase is corrected and the problem solved again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import Plan, plan_to_json
from autotune.core.layers import LayerShape, chosen_sites
from autotune.core.types import digest
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.model import NetworkModel
from autotune.results.measured import Measured, pooled_looks
from autotune.results.verdict import Verdict
from autotune.search.outer import Knobs
from autotune.search.problem import Allocation
from autotune.tuning.builders import Builder
from autotune.tuning.compression import Compression
from autotune.tuning.corrections import corrected, surprise
from autotune.tuning.decisions import guessed, measure_decisions
from autotune.tuning.machine import Machine
from autotune.tuning.paired import PairedNetworks
from autotune.tuning.planner import Corrections, Planner
from autotune.tuning.rounds import Round
from autotune.tuning.spells import at_any_time
from autotune.tuning.workspace import Workspace

# A plan this far below the latency limit gave away quality: correct the table upwards.
_SLACK = 0.015
_MAX_MARGIN = 0.06
# A measurement this far from its prediction is made again, and the one nearer to it is learned
# from: a neighbour that stays for a whole measurement spoils it without widening its interval. What
# is handed out is measured afresh and never chosen this way.
_SURPRISE = 0.05
# A second look that does not decide is repeated; so many count together.
_FINAL_LOOKS = 3
# By how much the target is tightened when the same plan would be built again.
_MARGIN_STEP = 0.01
# How often a plan is solved again because what it chose had to be measured first.
_SETTLING_TURNS = 8


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Everything that turns are made of; `rounds` bounds their number."""

    planner: Planner
    compression: Compression
    builder: Builder
    machine: Machine
    networks: PairedNetworks
    workspace: Workspace
    rounds: int

    def predict(self, knobs: Knobs) -> Round:
        """The plan for a machine that does not measure: solved once and built."""
        return self.predicted_round(
            self._solve(knobs, self.planner.uncorrected, margin=self.planner.margin)
        )

    def predicted_round(self, allocation: Allocation) -> Round:
        """A plan that is built and not measured."""
        whole = self.builder.compressed("prefill", self.compression, plan=allocation.plan)
        return Round(
            allocation=allocation,
            network=self.planner.network,
            measured=None,
            builds={"prefill": whole},
        )

    def run(self, knobs: Knobs) -> list[Round]:
        """Rounds until the budget holds, measured twice, without waste; at most `self.rounds`.

        Where only plans are left that were built already, the best of those that hold is measured
        for the second time; if it does not hold then, the rounds go on with what that taught.

        Raises:
            BudgetInfeasibleError: no plan meets the budgets.
            MeasurementError: a network could not be timed.
        """
        rounds: list[Round] = []
        corrections, margin = self.planner.uncorrected, self.planner.margin
        seen: set[str] = set()
        held, loop = True, self
        while len(rounds) < self.rounds:
            try:
                loop = loop._informed(knobs, corrections)
                loop, allocation, margin = loop._next(
                    knobs, corrections, margin=margin, avoid=() if held else seen
                )
            except BudgetInfeasibleError:
                if not rounds:
                    raise
                break
            if _name(allocation) not in seen:
                seen.add(_name(allocation))
                outcome = loop.measured_round(allocation, corrections, number=len(rounds))
                promising = self._holds_without_waste(outcome)
                rounds.append(outcome)
            else:
                holding = self._holding(rounds)
                if not holding:
                    break
                outcome, promising = holding[0], True
            if promising:
                looked = self.looked_at_again(outcome)
                rounds = [looked if each is outcome else each for each in rounds]
                outcome = looked
            last = outcome.decided
            held = self.verdict(last) is Verdict.MET
            if not self.planner.limits_latency or (promising and held):
                break
            corrections = self.learned(last)
            spread = last.judged.ratio_high / last.judged.ratio - 1.0
            margin = min(max(margin, spread), _MAX_MARGIN)
        return rounds

    def _informed(self, knobs: Knobs, corrections: Corrections) -> ClosedLoop:
        """The loop after measuring the forms whose predictions could change the next plan."""
        if not self.planner.limits_latency:
            return self
        return self._on(
            measure_decisions(
                self.planner.network,
                lambda network: self.planner.hoped_for(network, knobs, corrections=corrections),
                measure=self._time,
            )
        )

    def settled(
        self, knobs: Knobs, corrections: Corrections, *, margin: float
    ) -> tuple[ClosedLoop, Allocation]:
        """The plan, solved again as long as it holds forms whose latency is a guess.

        Forms that a busy machine did not let settle are measured once and then left.
        """
        loop, tried = self, set[LayerShape]()
        for _ in range(_SETTLING_TURNS):
            allocation = loop._solve(knobs, corrections, margin=margin)
            network = loop.planner.network
            guesses = set(guessed(network, allocation.plan)) - tried
            if not guesses or not loop.planner.limits_latency:
                break
            tried |= guesses
            loop = loop.having_timed(guesses)
        return loop, allocation

    def having_timed(self, shapes: Collection[LayerShape]) -> Self:
        """The same parts after these layers were measured."""
        return self._on(self.planner.network.on(self._time(shapes)))

    def _on(self, network: NetworkModel) -> Self:
        return self.on(replace(self.planner, network=network))

    def on(self, planner: Planner) -> Self:
        """The same parts with another planner."""
        return replace(self, planner=planner)

    def _time(self, shapes: Collection[LayerShape]) -> LatencyPredictor:
        return self.machine.measure_layers(
            shapes, self.workspace, stage="measure forms that could change the plan"
        )

    def _next(
        self, knobs: Knobs, corrections: Corrections, *, margin: float, avoid: Collection[str]
    ) -> tuple[ClosedLoop, Allocation, float]:
        """The next plan with the margin that gave it, and the loop that measured its forms.

        Where it is one of `avoid`, which were measured and did not hold, the target is tightened
        until it is another: what was measured of them teaches nothing else.
        """
        loop = self
        while True:
            loop, allocation = loop.settled(knobs, corrections, margin=margin)
            if _name(allocation) not in avoid or margin >= _MAX_MARGIN:
                return loop, allocation, margin
            margin = min(margin + _MARGIN_STEP, _MAX_MARGIN)

    def confirm(self, rounds: Sequence[Round]) -> Round:
        """The round to hand out, as a fresh measurement found it: of those that hold, the best.

        Rounds without a second look get one, in the order of preference, until one holds.
        """
        looked = [each.decided for each in rounds if each.second_look is not None]
        left = self.preferred([each for each in rounds if each.second_look is None])
        for candidate in left:
            if any(self.verdict(each) is Verdict.MET for each in looked):
                break
            looked.append(self.looked_at_again(candidate).decided)
        return self.preferred(looked)[0]

    def measured_plan(self, plan: Plan, *, name: str, brief: bool = False) -> Round:
        """A plan that no allocator chose, built and timed like that of a round, or `brief`ly.

        Raises:
            MeasurementError: a network could not be timed.
        """
        builds = self.build(plan)
        timed = self.networks.measured(builds, label=f"measure {name}", brief=brief)
        return Round(
            allocation=self.planner.allocation(plan, name=name),
            network=self.planner.network,
            measured=self._at_any_time(timed, plan),
            builds=builds,
        )

    def _holding(self, rounds: Sequence[Round]) -> list[Round]:
        """Rounds that seem to hold the budget and were not measured again, the best first."""
        left = [each for each in rounds if each.second_look is None]
        return [each for each in self.preferred(left) if self.verdict(each) is Verdict.MET]

    def looked_at_again(self, candidate: Round) -> Round:
        """With a fresh measurement, repeated while its interval contains the limit."""
        looks: list[Measured] = []
        for number in range(_FINAL_LOOKS):
            label = "measure the result" if not number else f"measure the result again ({number})"
            looks.append(self.networks.measured(candidate.builds, label=label, final=True))
            second_look = self._at_any_time(pooled_looks(looks), candidate.allocation.plan)
            found = replace(candidate, second_look=second_look)
            if self.verdict(found.decided) is not Verdict.UNDECIDED:
                break
        return found

    def verdict(self, outcome: Round) -> Verdict:
        """Whether a round holds the latency budget (the other budgets hold by count)."""
        judged, limit = outcome.judged, self.planner.limit_ratio(outcome.judged.dense_latency_s)
        low, high = judged.ratio_low, judged.ratio_high
        if outcome.measured is None:
            return Verdict.of_prediction(limit, judged.ratio, ratio_low=low, ratio_high=high)
        is_dense = outcome.is_dense
        return Verdict.of(limit, judged.ratio, ratio_low=low, ratio_high=high, is_dense=is_dense)

    def preferred(self, rounds: Sequence[Round]) -> list[Round]:
        """Rounds that surely hold the budget, by least loss; then the others, the fastest first."""
        met = [each for each in rounds if self.verdict(each) is Verdict.MET]
        others = [each for each in rounds if self.verdict(each) is not Verdict.MET]
        met.sort(key=lambda each: each.allocation.loss)
        others.sort(key=lambda each: each.judged.ratio)
        return [*met, *others]

    def _at_any_time(self, measured: Measured, plan: Plan) -> Measured:
        sites = chosen_sites(self.planner.network.sites, plan)
        covered = [(len(site.layers), form) for site, form in sites]
        spread_s = self.machine.product_sd_s
        return Measured(
            passes=tuple(
                at_any_time(timed, covered, product_sd_s=spread_s) for timed in measured.passes
            )
        )

    def build(self, plan: Plan) -> dict[str, Path]:
        """The compressed models of a plan, by phase."""
        return {
            phase: self.builder.compressed(phase, self.compression, plan=plan)
            for phase in self.builder.model.workload.passes
        }

    def measured_round(
        self, allocation: Allocation, corrections: Corrections, *, number: int
    ) -> Round:
        """The plan of a round, built and timed; the first round has number 0.

        Raises:
            MeasurementError: a network could not be timed.
        """
        builds = self.build(allocation.plan)
        label = f"measure round {number + 1}"

        def measured(label: str) -> Round:
            timed = self.networks.measured(builds, label=label)
            return Round(
                allocation=allocation,
                network=self.planner.network.corrected(corrections),
                measured=self._at_any_time(timed, allocation.plan),
                builds=builds,
            )

        outcome = measured(label)
        if self.planner.limits_latency and surprise(outcome) > _SURPRISE:
            outcome = min(outcome, measured(f"{label} again"), key=surprise)
        return outcome

    def _holds_without_waste(self, outcome: Round) -> bool:
        limit = self.planner.limit_ratio(outcome.judged.dense_latency_s)
        held = outcome.judged.ratio_high
        return limit is not None and held <= limit and limit - held <= _SLACK

    def learned(self, outcome: Round) -> Corrections:
        """The corrections that the measurement of a round proves."""
        pairs = zip(outcome.network.phases, outcome.judged.passes, strict=True)
        return tuple(
            corrected(one, outcome.allocation.plan, measured=timed) for one, timed in pairs
        )

    def _solve(self, knobs: Knobs, corrections: Corrections, *, margin: float) -> Allocation:
        with self.workspace.stage("choose the plan") as advance:
            return self.planner.solve(knobs, corrections, margin=margin, progress=advance)


def _name(allocation: Allocation) -> str:
    return digest(plan_to_json(allocation.plan))
