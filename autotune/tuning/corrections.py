"""What a measured network teaches about the predictions of the next plan."""

from __future__ import annotations

from autotune.core.forms import Plan
from autotune.predictor.network.model import PhaseModel
from autotune.results.measured import MeasuredPass
from autotune.tuning.rounds import Round

# A correction moves the predicted saving by at most this factor; by less where the measurement was
# disturbed, as one wild measurement once sent the next plan to half the parameters.
_MAX_STEP = 2.0
_DISTURBED_STEP = 1.25


def corrected(model: PhaseModel, plan: Plan, *, measured: MeasuredPass) -> float:
    """The correction of a phase that its measurement proves, one bounded step at a time.

    A prediction inside the measured interval stands; outside, it is moved to the interval's near
    end. A plan that leaves all layers as they are teaches nothing of what others save.
    """
    if all(form.is_unchanged for form in plan.values()):
        return model.correction
    predicted, dense = model.predict(plan).ratio, model.anchor.ratio
    proven = min(max(predicted, measured.ratio_low), measured.ratio_high)
    factor = max(dense - proven, 1e-6) / max(dense - predicted, 1e-6)
    step = _MAX_STEP if measured.converged else _DISTURBED_STEP
    return model.correction * min(max(factor, 1.0 / step), step)


def surprise(outcome: Round) -> float:
    """How far the measured ratio is from the predicted one."""
    return abs(outcome.judged.ratio - outcome.predicted.ratio)
