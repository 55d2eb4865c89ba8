"""One round of the closed loop: a plan, what was predicted for it, and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.core.forms import Plan
from autotune.core.types import Estimate
from autotune.predictor.network.model import NetworkModel, PhaseModel
from autotune.results.measured import Measured, MeasuredPass
from autotune.search.problem import Allocation

# The name of the plan that an allocator found, among others that were measured.
CHOSEN = "chosen plan"


@dataclass(frozen=True, kw_only=True)
class Round:
    """A plan with the corrected network model it was solved with, and its measurement.

    `builds` are the compressed models by phase. `measured` is None where the machine does not
    measure. A measurement that a round was chosen by flatters it, so one that seemed to hold the
    budget has a `second_look`, made afresh. `prediction` is set where the layers were measured
    again since: what the model predicts now is not what the round was chosen by.
    """

    allocation: Allocation
    network: NetworkModel
    measured: Measured | None
    builds: Mapping[str, Path]
    second_look: Measured | None = None
    prediction: Estimate | None = None

    @property
    def decided(self) -> Round:
        """The round as its second look found it, where there was one."""
        return dataclasses.replace(self, measured=self.second_look or self.measured)

    @property
    def is_dense(self) -> bool:
        """Whether it is the dense model, in its own dtype."""
        unchanged = all(form.is_unchanged for form in self.allocation.plan.values())
        return unchanged and self.network.dtype == self.network.weight_dtype

    @property
    def judged(self) -> Measured:
        """What budgets are judged by: the measurement, or the prediction where there is none."""
        return self.measured or predicted_as_measured(self.network, self.allocation.plan)

    @property
    def predicted(self) -> Estimate:
        """What the corrected model predicted for the plan."""
        return self.prediction or self.network.predict(self.allocation.plan)

    @property
    def corrections(self) -> tuple[float, ...]:
        """What the model had learned from earlier rounds."""
        return tuple(phase.correction for phase in self.network.phases)


def predicted_as_measured(network: NetworkModel, plan: Plan) -> Measured:
    """What a measurement would show if the prediction were right, with its 90 % interval."""

    def one(model: PhaseModel) -> MeasuredPass:
        found, dense_s = model.predict(plan), model.anchor.reference_s
        low, high = model.ratio_interval(plan)
        return MeasuredPass(
            name=model.name,
            count=model.count,
            latency_s=found.latency_s,
            dense_latency_s=dense_s,
            ratio=found.ratio,
            ratio_low=low,
            ratio_high=high,
        )

    return Measured(passes=tuple(one(model) for model in network.phases))
