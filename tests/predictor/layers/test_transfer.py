"""Intervals of what another board and other software will measure."""

import math

import numpy as np
import pandas as pd
import pytest

import autotune
from autotune.core.forms import DENSE, low_rank
from autotune.core.layer_columns import LayerColumns
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers import transfer
from autotune.predictor.layers.transfer import (
    LEVEL,
    QUANTILES,
    SIZE_CLASSES,
    Transfer,
    TransferredLatency,
)

PAIR = LayerShape(tokens=64, in_features=256, out_features=256, form=low_rank(64), dtype="bf16")


def environments(spreads):
    """Rows of environments (device, name) whose errors are spread evenly from 0 to a width."""
    return [
        {"device": device, "environment": name, "of": kind, "size_class": str(number)}
        | {f"q{100 * level:.0f}": str(level * width) for level in QUANTILES}
        for (device, name), width in spreads.items()
        for kind in ("seconds", "ratio")
        for number in range(len(SIZE_CLASSES) + 1)
    ]


@pytest.fixture
def known(monkeypatch):
    rows = environments({("a", "one"): 0.4, ("a", "two"): 0.2, ("b", "one"): 0.1, ("c", "x"): 0.1})
    monkeypatch.setattr(transfer, "_environments", lambda: rows)


def test_the_width_is_the_larger_of_its_own_and_of_all_others(known):
    of_others = Transfer.of("b").seconds[0]
    assert of_others > 0.2  # of a, whose software differs more than that of b
    assert Transfer.of("c").seconds[0] == of_others
    own = Transfer.of("a").seconds[0]
    assert own > Transfer.of("unknown").seconds[0]
    assert LEVEL * 0.2 < own < LEVEL * 0.4


def test_an_environment_can_be_left_out(known):
    assert Transfer.of("a", without=("a", "one")).seconds[0] == pytest.approx(LEVEL * 0.2, rel=0.02)
    assert Transfer.of("a", without=("b", "one")) == Transfer.of("a")


class Known(LatencyPredictor):
    """Two microseconds within a tenth; half of that, within a fifth, for a pair."""

    def estimate(self, shape):
        seconds, width = (2e-6, 0.1) if shape.is_dense else (1e-6, 0.2)
        return Estimate(
            latency_s=seconds,
            low_s=seconds * math.exp(-width),
            high_s=seconds * math.exp(width),
            ratio=1.0 if shape.is_dense else 0.5,
            source="measured",
            ratio_half_width=0.0 if shape.is_dense else 0.05,
        )


def test_both_intervals_are_widened_and_a_dense_ratio_is_one():
    wider = TransferredLatency(Known(), Transfer(seconds=(0.1, 0.3, 0.5), ratio=(0.2, 0.12, 0.4)))
    assert (wider.interval, Known().interval) == ("transfer", "table")
    pair, dense = wider.estimate(PAIR), wider.estimate(PAIR.with_form(DENSE))
    assert pair.log_half_width == pytest.approx(math.hypot(0.2, 0.3))
    assert math.log(pair.ratio_high / pair.ratio) == pytest.approx(math.hypot(0.05, 0.12))
    assert (dense.ratio_low, dense.ratio, dense.ratio_high) == (1.0, 1.0, 1.0)
    assert (pair.latency_s, pair.ratio, pair.source) == (1e-6, 0.5, "measured")


@pytest.mark.parametrize(
    ("tokens", "number"), [(1, 0), (16, 0), (17, 1), (512, 1), (513, 2), (9999, 2)]
)
def test_the_width_is_that_of_the_number_of_tokens(tokens, number):
    found = Transfer(seconds=(0.1, 0.2, 0.3), ratio=(0.4, 0.5, 0.6))
    pair = LayerShape(tokens=tokens, in_features=64, out_features=64, form=low_rank(8))
    seconds, ratio = found.half_widths(LayerColumns.of([pair, pair.dense]))
    assert seconds.tolist() == [found.seconds[number]] * 2
    assert ratio.tolist() == [found.ratio[number], 0.0]


def test_the_file_has_every_device_that_others_measured():
    rows = pd.DataFrame(transfer._environments())
    quantiles = rows[[f"q{100 * level:.0f}" for level in QUANTILES]].to_numpy(dtype=float)
    assert (np.diff(quantiles) >= 0).all()
    assert set(rows["device"]) >= {"a100-sxm", "h100-sxm", "h200-sxm", "l40s"}
    for device in {*rows["device"], "a40"}:
        widths = (*Transfer.of(device).seconds, *Transfer.of(device).ratio)
        assert all(0.1 < width < 0.5 for width in widths), device


@pytest.mark.parametrize("device", ["a100", "h200"])
def test_a_device_elsewhere_is_answered_with_it(device):
    found = autotune.predict(device=device, tokens=2048, shape="4096x4096", ranks=(1024,))
    assert found.interval == "transfer"
    for estimate in found.estimates:
        assert estimate.log_half_width > 0.1
