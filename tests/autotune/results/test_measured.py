"""What was measured of several passes, and what the loop learns from each."""

import pytest

from autotune.core.errors import UsageError
from autotune.core.types import Workload
from autotune.results.measured import Measured, MeasuredPass
from autotune.tuning.corrections import corrected
from tests.predictor.network.test_network import PLAN, prefill


def timed(name="prefill", count=1, dense_s=0.01, ratio=0.8, half=0.02):
    return MeasuredPass(
        name=name,
        count=count,
        latency_s=ratio * dense_s,
        dense_latency_s=dense_s,
        ratio=ratio,
        ratio_low=ratio - half,
        ratio_high=ratio + half,
    )


def test_a_single_pass_is_itself():
    whole = Measured(passes=(timed(),))
    assert (whole.ratio, whole.ratio_low, whole.ratio_high) == pytest.approx((0.8, 0.78, 0.82))
    assert (whole.latency_s, whole.dense_latency_s) == pytest.approx((0.008, 0.01))


def test_passes_weigh_by_their_dense_latency():
    """10 ms of prefill and 30 steps of 1 ms: the steps are three quarters of the request."""
    whole = Measured(passes=(timed(), timed("decode", 30, 0.001, ratio=0.6, half=0.04)))
    assert whole.dense_latency_s == pytest.approx(0.04)
    assert whole.ratio == pytest.approx(0.25 * 0.8 + 0.75 * 0.6)
    assert whole.ratio == pytest.approx(whole.latency_s / whole.dense_latency_s)
    assert whole.ratio_high - whole.ratio == pytest.approx(0.25 * 0.02 + 0.75 * 0.04)


def test_a_prediction_within_the_interval_stands():
    model = prefill()
    predicted = model.predict(PLAN).ratio
    assert corrected(model, PLAN, measured=timed(ratio=predicted + 0.01)) == 1.0


def test_a_miss_is_corrected_to_the_intervals_near_end():
    model = prefill()
    predicted = model.predict(PLAN).ratio
    learned = corrected(model, PLAN, measured=timed(ratio=predicted + 0.04))
    assert learned == pytest.approx((1 - predicted - 0.02) / (1 - predicted))
    assert prefill(learned).predict(PLAN).ratio == pytest.approx(predicted + 0.02)


def test_a_wild_measurement_moves_one_bounded_step():
    assert corrected(prefill(), PLAN, measured=timed(ratio=0.2)) == 2.0
    assert corrected(prefill(), PLAN, measured=timed(ratio=1.5)) == pytest.approx(1 / 2.0)


def test_a_workload_runs_its_passes():
    sizes = {"batch_size": 2, "sequence_length": 100}
    assert Workload(**sizes).passes == {"prefill": 1}
    request = Workload(**sizes, output_length=40, phase="request")
    assert request.passes == {"prefill": 1, "decode": 40}
    assert request.past_length == 120
    assert Workload(**sizes, phase="decode").passes == {"decode": 1}
    assert Workload(**sizes, phase="decode").past_length == 100


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"phase": "warmup"}, "one of prefill, decode, request"),
        ({"phase": "request"}, "set workload.output_length"),
        ({"output_length": 5, "phase": "prefill"}, "needs workload.phase decode"),
        ({"output_length": -1, "phase": "decode"}, "0 or more, got -1"),
    ],
)
def test_a_workload_that_contradicts_itself_is_refused(options, says):
    with pytest.raises(UsageError, match=says):
        Workload(**options)
