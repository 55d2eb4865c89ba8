"""Whole-network latency: one pass, and a request of several."""

import dataclasses

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import Site
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.network.model import NetworkAnchor, NetworkModel, PhaseModel
from tests.forms import plan_of
from tests.predictor.layers.test_prediction import ROOFLINE, row, shape

PLAN = plan_of({"a": 64, "b": 16, "c": None})


def sites(tokens):
    return [
        Site(name=name, in_features=256, out_features=512, tokens=tokens)
        for name in ("a", "b", "c")
    ]


def prefill(correction=1.0):
    """Ten milliseconds, a tenth of it in each of three layers; rank r costs r/200 of dense."""
    rows = [row(shape(), 1e-3), *(row(shape(r), r * 5e-6) for r in (16, 64, 160))]
    anchor = NetworkAnchor(latency_s=0.01, layer_shares={shape(): 0.1})
    return PhaseModel(
        anchor=anchor,
        predictor=LatencyTable(rows, ROOFLINE),
        sites=sites(128),
        correction=correction,
    )


def decode(count=100):
    """A millisecond, a fifth of it in each layer; rank r costs 0.2 + r/400 of dense."""
    dense = dataclasses.replace(shape(), tokens=1)
    rows = [row(dense, 1e-4, 1e-4)]
    for rank in (16, 64, 160):
        pair = dense.with_form(low_rank(rank))
        rows.append(row(pair, 1e-4 * (0.2 + rank / 400), 1e-4))
    anchor = NetworkAnchor(latency_s=0.001, layer_shares={dense: 0.2})
    return PhaseModel(
        name="decode",
        count=count,
        anchor=anchor,
        predictor=LatencyTable(rows, ROOFLINE),
        sites=sites(1),
    )


def one(**options):
    return NetworkModel(phases=(prefill(**options),))


def request():
    return NetworkModel(phases=(prefill(), decode()))


@pytest.mark.parametrize("model", [one(), request()], ids=["pass", "request"])
def test_the_network_is_rest_plus_sites(model):
    dense = model.predict({})
    assert dense.latency_s == pytest.approx(model.dense_latency_s)
    assert dense.ratio == pytest.approx(1.0)
    sites = sum(model.site_latency_s(s, PLAN[s.name]) for s in model.sites)
    estimate = model.predict(PLAN)
    assert estimate.latency_s == pytest.approx(model.rest_s + sites)
    assert estimate.ratio == pytest.approx(estimate.latency_s / dense.latency_s)
    assert estimate.low_s < estimate.latency_s < estimate.high_s


def test_one_pass_by_hand():
    model = one()
    assert model.rest_s == pytest.approx(0.007)
    assert model.predict(PLAN).latency_s == pytest.approx(0.01 - 0.001 * (0.68 + 0.92))


def test_a_request_by_hand():
    """A prefill of 10 ms and a hundred steps of 1 ms; each pass priced on its own tokens."""
    model = request()
    assert model.dense_latency_s == pytest.approx(0.11)
    assert model.rest_s == pytest.approx(0.007 + 100 * 0.0004)
    saved = 0.001 * (0.68 + 0.92) + 100 * 0.0002 * ((0.8 - 0.16) + (0.8 - 0.04))
    assert model.predict(PLAN).latency_s == pytest.approx(0.11 - saved)


def test_intervals_of_passes_are_independent():
    whole = request().predict(PLAN)
    halves = [100 * (e.high_s - e.latency_s) for e in (decode().predict(PLAN),)]
    first = prefill().predict(PLAN)
    halves.append(first.high_s - first.latency_s)
    assert whole.high_s - whole.latency_s == pytest.approx((halves[0] ** 2 + halves[1] ** 2) ** 0.5)


def test_the_correction_scales_what_is_saved():
    saved = 1 - one().predict(PLAN).ratio
    assert 1 - one(correction=0.5).predict(PLAN).ratio == pytest.approx(0.5 * saved)


def test_every_pass_has_a_correction_of_its_own():
    model = request().corrected((0.5, 1.0))
    saved = 0.5 * 0.001 * (0.68 + 0.92) + 100 * 0.0002 * ((0.8 - 0.16) + (0.8 - 0.04))
    assert model.predict(PLAN).latency_s == pytest.approx(0.11 - saved)


def test_a_layer_over_all_passes():
    model, site = request(), sites(128)[0]
    estimate = model.layer_estimate(site, low_rank(64))
    assert estimate.latency_s == pytest.approx(64 * 5e-6 + 100 * 1e-4 * (0.2 + 64 / 400))
    assert estimate.ratio == pytest.approx(estimate.latency_s / (1e-3 + 100 * 1e-4))
    assert estimate.source == "measured"
    between = model.layer_estimate(site, low_rank(32))
    assert between.source == "interpolated"
