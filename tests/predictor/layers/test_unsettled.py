"""Points that did not settle are weighed against their neighbours and never stand alone."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.core.forms import Form
from autotune.core.layers import LayerShape
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.layers.unsettled import weigh_unsettled
from autotune.testing.hardware import simulated_hardware
from autotune.testing.shapes import at_rank
from tests.predictor.layers.test_prediction import ROOFLINE, recorded, row, shape

WIDE = LayerShape(tokens=1024, in_features=384, out_features=1536)
# Of the 384x1536 layer of MiniLM on a busy 2-core CPU; rank 144 is 0.497 when measured in quiet.
SEEN = {64: 0.238, 96: 0.335, 128: 0.432, 144: 0.197, 160: 0.551, 192: 0.640, 224: 0.742}


def timed(layer, ratio, *, half_width=0.01, converged=True):
    """A row with this ratio and log half width of its 95 % interval."""
    return dataclasses.replace(
        row(layer, 1e-3 * ratio),
        ratio_low=ratio * math.exp(-half_width),
        ratio_high=ratio * math.exp(half_width),
        converged=converged,
    )


def staircase(unsettled, seen=SEEN):
    dense = timed(WIDE, 1.0, half_width=0.0)
    return [dense] + [
        timed(at_rank(WIDE, rank), ratio)
        if rank not in unsettled
        else timed(at_rank(WIDE, rank), ratio, half_width=unsettled[rank], converged=False)
        for rank, ratio in seen.items()
    ]


@pytest.mark.parametrize("others", [(), (64, 96, 128, 160, 192, 224)])
def test_a_lucky_rank_does_not_stand(others):
    """Also where nothing settled: its neighbours contradict it together."""
    wide = dict.fromkeys(others, 0.2)
    table = LatencyTable(staircase({144: 0.36, **wide}), ROOFLINE)
    found = table.estimate(at_rank(WIDE, 144))
    assert found.source == "unsettled"
    assert found.ratio == pytest.approx(0.497, rel=0.1)
    dense_s = table.estimate(WIDE).latency_s
    assert found.low_s < 0.497 * dense_s < found.high_s
    assert found.low_s > 0.3 * dense_s
    for rank in SEEN:
        if rank not in (144, *others):
            estimate = table.estimate(at_rank(WIDE, rank))
            assert (estimate.source, estimate.ratio) == ("measured", SEEN[rank])


def test_a_sure_point_moves_little_and_an_unsure_one_much():
    sure, unsure = (
        weigh_unsettled(staircase({144: width}, SEEN | {144: 0.45}), ROOFLINE)[at_rank(WIDE, 144)]
        for width in (0.02, 0.6)
    )
    assert abs(sure.value - 0.45) < abs(unsure.value - 0.45)
    assert sure.high / sure.low < unsure.high / unsure.low


def test_a_settled_point_stands_unless_it_is_impossible():
    assert weigh_unsettled(staircase({}, SEEN | {144: 0.45}), ROOFLINE) == {}
    (found,) = weigh_unsettled(staircase({}), ROOFLINE).values()
    # Either it or its neighbours are right, and nobody knows which.
    assert found.low <= 0.197
    assert found.high >= 0.49


def test_alone_or_beyond_a_cliff_it_has_only_its_own_interval():
    lone = [timed(WIDE, 1.0), timed(at_rank(WIDE, 64), 0.3, half_width=0.1, converged=False)]
    odd = [timed(at_rank(WIDE, rank), 1.2) for rank in (63, 65, 127, 129)]
    for rows in (lone, [*lone, *odd]):
        found = weigh_unsettled(rows, ROOFLINE, cliff=8)[at_rank(WIDE, 64)]
        assert found.value == pytest.approx(0.3)
        assert found.high / found.value >= math.exp(0.1)


def test_a_form_without_a_rank_is_weighed_by_itself():
    layer = dataclasses.replace(WIDE, form=Form(precision="int8-static"))
    found = LatencyTable(
        [timed(WIDE, 1.0), timed(layer, 0.5, half_width=0.2, converged=False)], ROOFLINE
    ).estimate(layer)
    assert (found.source, found.ratio) == ("unsettled", 0.5)


def test_a_dense_layer_that_was_never_calm_is_as_unsure_as_its_timings_differ():
    busy = dataclasses.replace(timed(WIDE, 1.0, converged=False), latency_s=1e-3)
    pair = dataclasses.replace(timed(at_rank(WIDE, 64), 0.3), dense_latency_s=2e-3)
    found = LatencyTable([busy, pair], ROOFLINE).estimate(WIDE)
    assert (found.source, found.ratio) == ("unsettled", 1.0)
    assert found.low_s < 1e-3
    assert found.high_s > 2e-3


def test_between_unsettled_ranks_the_interval_is_wider():
    calm, busy = (
        LatencyTable(staircase(dict.fromkeys(unsettled, 0.5)), ROOFLINE).estimate(
            at_rank(WIDE, 136)
        )
        for unsettled in ((), (128, 144))
    )
    assert calm.source == busy.source == "interpolated"
    assert busy.high_s / busy.low_s >= calm.high_s / calm.low_s


def test_recorded_points_that_did_not_settle_stay_near_what_was_measured():
    rows = recorded()
    marked = [dataclasses.replace(r, converged=i % 3 > 0) for i, r in enumerate(rows)]
    for layer, found in weigh_unsettled(marked, ROOFLINE).items():
        raw = next(r.ratio for r in rows if r.shape == layer)
        assert found.value == pytest.approx(raw, rel=0.15)


def _true_curve(seed):
    """Ratios of a layer's ranks on simulated hardware: stairs, with a texture of single shapes."""
    hardware = simulated_hardware("cpu-like", seed=seed, texture=0.02)
    draw = np.random.default_rng(seed)
    layer = shape(k=64 * int(draw.integers(4, 13)), n=64 * int(draw.integers(4, 25)), m=256)
    ranks = 16 * np.unique(draw.integers(1, 13, 9))
    dense_s = hardware.layer_latency_s(layer)
    return {
        at_rank(layer, int(r)): hardware.layer_latency_s(at_rank(layer, int(r))) / dense_s
        for r in ranks
    }


def _errors(seed, *, share, tail):
    """Errors (log) of raw and weighed values of one curve, and whether the intervals hold."""
    draw = np.random.default_rng((seed, 7))
    truth, rows = _true_curve(seed), []
    for layer, ratio in truth.items():
        busy = draw.random() < share
        sd = math.exp(draw.uniform(math.log(0.02), math.log(0.4))) if busy else 0.007
        error = sd * (draw.standard_t(tail) if busy else draw.normal())
        value = ratio * math.exp(error)
        rows.append(timed(layer, value, half_width=1.96 * sd, converged=not busy))
    raw = {each.shape: each.ratio for each in rows}
    found = weigh_unsettled(rows, ROOFLINE)
    return [
        (
            abs(math.log(raw[layer] / truth[layer])),
            abs(math.log(each.value / truth[layer])),
            each.low <= truth[layer] <= each.high,
        )
        for layer, each in found.items()
    ]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(start=st.integers(0, 10**6), share=st.sampled_from([0.3, 0.6, 1.0]), tail=st.integers(2, 6))
def test_weighed_values_are_nearer_to_the_truth_and_their_intervals_hold(start, share, tail):
    """60 layers at a time, with errors of heavy tails (Student's t) beyond what intervals say."""
    found = [each for i in range(60) for each in _errors(start + i, share=share, tail=tail)]
    raw, weighed, held = (np.array(column) for column in zip(*found, strict=True))
    assert len(found) > 60
    assert weighed.mean() < 0.7 * raw.mean()
    assert np.quantile(weighed, 0.95) < 0.7 * np.quantile(raw, 0.95)
    assert (weighed < raw).mean() > 0.55
    assert held.mean() >= 0.9
