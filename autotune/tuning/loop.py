"""The closed loop: solve, build, measure, correct, until a plan holds that was measured.

The latency table is made of single layers, and a network is more than their sum. So every plan is
built and timed in turn with the dense network; where the prediction was off, the predicted saving
of each phase is corrected and the problem solved again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import Plan, plan_to_json
from autotune.core.types import digest
from autotune.predictor.network.model import PhaseModel
from autotune.results.measured import Measured, MeasuredPass
from autotune.results.verdict import Verdict
from autotune.search.outer import Knobs
from autotune.search.problem import Allocation
from autotune.tuning.builders import Builder
from autotune.tuning.compression import Compression
from autotune.tuning.machine import Machine
from autotune.tuning.planner import Corrections, Planner
from autotune.tuning.rounds import Round
from autotune.tuning.workspace import Workspace

# A plan this far below the latency limit gave away quality: correct the table upwards.
_SLACK = 0.015
_MAX_STEP = 1.25
_MAX_MARGIN = 0.03
# A measurement this far from its prediction is made again, and the one nearer to it is learned
# from: a neighbour that stays for a whole measurement spoils it without widening its interval. What
# is handed out is measured afresh and never chosen this way.
_SURPRISE = 0.05
# A final measurement that does not decide is repeated at most so often; the narrowest counts.
_FINAL_LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Everything that turns are made of; `rounds` bounds their number."""

    planner: Planner
    compression: Compression
    builder: Builder
    machine: Machine
    workspace: Workspace
    rounds: int

    def predict(self, knobs: Knobs) -> Round:
        """The plan for a machine that does not measure: solved once and built."""
        allocation = self._solve(knobs, self.planner.uncorrected, margin=self.planner.margin)
        whole = self.builder.compressed("prefill", self.compression, plan=allocation.plan)
        return Round(
            allocation=allocation,
            network=self.planner.network,
            measured=None,
            builds={"prefill": whole},
        )

    def run(self, knobs: Knobs) -> list[Round]:
        """Rounds until the budget holds without waste, at most `self.rounds` of them.

        Raises:
            BudgetInfeasibleError: no plan meets the budgets.
            MeasurementError: a network could not be timed.
        """
        rounds: list[Round] = []
        corrections, margin = self.planner.uncorrected, self.planner.margin
        seen: set[str] = set()
        for number in range(self.rounds):
            try:
                allocation = self._solve(knobs, corrections, margin=margin)
            except BudgetInfeasibleError:
                if not rounds:
                    raise
                break
            plan = digest(plan_to_json(allocation.plan))
            if plan in seen:
                break
            seen.add(plan)
            outcome = self._measured_round(allocation, corrections, number=number)
            rounds.append(outcome)
            if not self.planner.limits_latency or self._holds_without_waste(outcome):
                break
            corrections = self._corrections(outcome)
            spread = outcome.judged.ratio_high / outcome.judged.ratio - 1.0
            margin = min(max(self.planner.margin, spread), _MAX_MARGIN)
        return rounds

    def confirm(self, rounds: Sequence[Round]) -> Round:
        """Measure the preferred round afresh: it was chosen by its measurement, which flatters.

        When the fresh measurement misses the budget, the next round is looked at.
        """
        looked: list[Round] = []
        for candidate in self.preferred(rounds):
            looked.append(self._confirmed(candidate))
            if self.verdict(looked[-1]) is Verdict.MET:
                break
        return self.preferred(looked)[0]

    def _confirmed(self, candidate: Round) -> Round:
        """A fresh measurement, repeated while its interval contains the limit."""
        found: list[Round] = []
        for look in range(_FINAL_LOOKS):
            label = "measure the result" if not look else f"measure the result again ({look})"
            found.append(
                self.measure(
                    candidate.allocation,
                    candidate.corrections,
                    builds=candidate.builds,
                    label=label,
                    final=True,
                )
            )
            if self.verdict(found[-1]) is not Verdict.UNDECIDED:
                return found[-1]
        return min(found, key=lambda each: each.judged.ratio_high - each.judged.ratio_low)

    def verdict(self, outcome: Round) -> Verdict:
        """Whether a round holds the latency budget (the other budgets hold by count)."""
        judged, limit = outcome.judged, self.planner.limit_ratio(outcome.judged.dense_latency_s)
        if outcome.measured is None:
            return Verdict.of_prediction(limit, judged.ratio)
        return Verdict.of(
            limit, judged.ratio, ratio_low=judged.ratio_low, ratio_high=judged.ratio_high
        )

    def preferred(self, rounds: Sequence[Round]) -> list[Round]:
        """Rounds that surely hold the budget, by least loss; then the others, the fastest first."""
        met = [each for each in rounds if self.verdict(each) is Verdict.MET]
        others = [each for each in rounds if self.verdict(each) is not Verdict.MET]
        met.sort(key=lambda each: each.allocation.loss)
        others.sort(key=lambda each: each.judged.ratio)
        return [*met, *others]

    def measure(
        self,
        allocation: Allocation,
        corrections: Corrections,
        *,
        builds: Mapping[str, Path],
        label: str,
        final: bool = False,
    ) -> Round:
        """Time every phase of a compressed model, in `builds`, in turn with the dense one."""
        network = self.planner.network.corrected(corrections)
        phases = tuple(
            replace(
                self._measure(phase.name, builds[phase.name], label=label, final=final),
                count=phase.count,
            )
            for phase in network.phases
        )
        return Round(
            allocation=allocation,
            network=network,
            measured=Measured(passes=phases),
            builds=builds,
        )

    def _measure(self, phase: str, build: Path, *, label: str, final: bool) -> MeasuredPass:
        dense, inputs = self.builder.dense(phase), self.builder.inputs(phase)

        def compute() -> dict[str, Any]:
            with self.workspace.stage(f"{label}, {phase}") as advance:
                timing = self.machine.compare([dense, build], inputs, final=final, advance=advance)
            return asdict(MeasuredPass.of(phase, timing))

        key = {
            "label": label,
            "fingerprint": self.machine.fingerprint.id,
            "build": self.builder.key(build),
            "inputs": inputs.name,
        }
        return MeasuredPass(**self.workspace.value("timing", key, compute=compute))

    def _measured_round(
        self, allocation: Allocation, corrections: Corrections, *, number: int
    ) -> Round:
        builds = {
            phase: self.builder.compressed(phase, self.compression, plan=allocation.plan)
            for phase in self.builder.model.workload.passes
        }
        label = f"measure round {number + 1}"
        outcome = self.measure(allocation, corrections, builds=builds, label=label)
        if self.planner.limits_latency and surprise(outcome) > _SURPRISE:
            again = self.measure(allocation, corrections, builds=builds, label=f"{label} again")
            outcome = min(outcome, again, key=surprise)
        return outcome

    def _holds_without_waste(self, outcome: Round) -> bool:
        limit = self.planner.limit_ratio(outcome.judged.dense_latency_s)
        return limit is not None and 0.0 <= limit - outcome.judged.ratio_high <= _SLACK

    def _corrections(self, outcome: Round) -> Corrections:
        pairs = zip(outcome.network.phases, outcome.judged.passes, strict=True)
        return tuple(
            corrected(one, outcome.allocation.plan, measured=timed) for one, timed in pairs
        )

    def _solve(self, knobs: Knobs, corrections: Corrections, *, margin: float) -> Allocation:
        with self.workspace.stage("choose the plan") as advance:
            return self.planner.solve(knobs, corrections, margin=margin, progress=advance)


def corrected(model: PhaseModel, plan: Plan, *, measured: MeasuredPass) -> float:
    """The correction of a phase that its measurement proves, one bounded step at a time.

    A prediction inside the measured interval stands; outside, it is moved to the interval's near
    end. On a busy machine one wild measurement once sent the next plan to half the parameters, so
    a step is at most `_MAX_STEP`.
    """
    predicted = model.predict(plan).ratio
    proven = min(max(predicted, measured.ratio_low), measured.ratio_high)
    factor = max(1.0 - proven, 1e-6) / max(1.0 - predicted, 1e-6)
    return model.correction * min(max(factor, 1.0 / _MAX_STEP), _MAX_STEP)


def surprise(outcome: Round) -> float:
    """How far the measured ratio is from the predicted one."""
    return abs(outcome.judged.ratio - outcome.predicted.ratio)
