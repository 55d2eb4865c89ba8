"""Interpolation, regression and intervals, against mathematics and recorded measurements."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from autotune.core.errors import MeasurementError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.layers.features import LayerArrays, distinct
from autotune.predictor.layers.interpolation import Curve, interpolate
from autotune.predictor.layers.regressor import LatencyRegressor, _HalfWidths
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.predictor.products.features import LAUNCH_S
from autotune.profiler.database.exchange import read_table
from autotune.profiler.database.records import Measurement
from tests.forms import form_of

ROOFLINE = Roofline.of(find_device("cpu"), 2)
RECORDED = Path(__file__).parents[2] / "data" / "recorded_cpu.csv"


def recorded():
    """Real measurements of one 2-core CPU, onnxruntime (see tests/data/README.md).

    Some did not settle; these tests take them all as they were measured.
    """
    ((_, rows),) = read_table(RECORDED)
    return [dataclasses.replace(row, converged=True) for row in rows]


def row(shape, latency_s, dense_s=1e-3):
    ratio = latency_s / dense_s
    return Measurement(
        shape=shape,
        latency_s=latency_s,
        dense_latency_s=dense_s,
        ratio=ratio,
        ratio_low=ratio * 0.98,
        ratio_high=ratio * 1.02,
        rounds=9,
        windows=3,
        disturbed_windows=0,
        converged=True,
        measured_at="2026-01-01",
    )


def shape(rank=None, k=256, n=512, m=128):
    return LayerShape(tokens=m, in_features=k, out_features=n, form=form_of(rank))


def test_roofline_of_a_pair_is_the_sum_of_its_products():
    halves = [shape(k=256, n=32), shape(k=32, n=512)]
    assert ROOFLINE.latency_s(shape(32)) == pytest.approx(sum(map(ROOFLINE.latency_s, halves)))


def test_interpolation_is_exact_at_constant_utilisation():
    known = [(shape(r), ROOFLINE.latency_s(shape(r)) / 0.37) for r in (16, 64, 160)]
    for rank in (16, 17, 40, 64, 159, 160):
        truth = ROOFLINE.latency_s(shape(rank)) / 0.37
        assert interpolate(shape(rank), Curve(known), roofline=ROOFLINE) == pytest.approx(
            truth, rel=1e-12
        )
    assert interpolate(shape(8), Curve(known), roofline=ROOFLINE) is None
    assert interpolate(shape(161), Curve(known), roofline=ROOFLINE) is None


def test_points_are_left_out_between_those_of_their_side_of_the_cliff():
    """Ranks 64 and 128 have the same side; 96 lies on another by itself, and 65 on a third."""
    truth = {rank: ROOFLINE.latency_s(shape(rank)) / 0.5 for rank in (64, 65, 96, 128, 192)}
    known = [(shape(rank), seconds) for rank, seconds in truth.items()]
    assert Curve(known, cliff=64).leave_one_out_errors(ROOFLINE) == pytest.approx([0.0])
    wrong = [(one, seconds * (2.0 if one.rank == 128 else 1.0)) for one, seconds in known]
    found = Curve(wrong, cliff=64).leave_one_out_errors(ROOFLINE)
    assert found == pytest.approx([math.log(2.0)])
    assert len(Curve(known).leave_one_out_errors(ROOFLINE)) == 3


def test_conformal_quantile_is_the_finite_sample_one():
    residuals = np.arange(1, 100) / 100.0
    assert conformal_quantile(residuals, 0.9) == 0.90
    assert conformal_quantile([0.1] * 8, 0.9) == math.inf
    assert conformal_quantile([0.1] * 9, 0.9) == 0.1


def test_measured_points_are_exact_and_say_so():
    rows = recorded()
    table = LatencyTable(rows, ROOFLINE)
    for item in rows:
        estimate = table.estimate(item.shape)
        assert estimate.source == "measured"
        assert estimate.ratio == item.ratio
        assert estimate.low_s <= estimate.latency_s <= estimate.high_s


def test_held_out_ranks_of_recorded_measurements_are_interpolated_well():
    """Every third rank is withheld; the interval must cover about what it says."""
    rows = recorded()
    ranked = [r for r in rows if r.shape.rank]
    inner = {
        r.shape.dense: [x.shape.rank for x in ranked if x.shape.dense == r.shape.dense]
        for r in ranked
    }
    held = [
        r
        for i, r in enumerate(ranked)
        if i % 3 == 1 and min(inner[r.shape.dense]) < r.shape.rank < max(inner[r.shape.dense])
    ]
    table = LatencyTable([r for r in rows if r not in held], ROOFLINE)
    errors, covered = [], 0
    for item in held:
        estimate = table.estimate(item.shape)
        assert estimate.source == "interpolated"
        truth = item.ratio * table.estimate(item.shape.dense).latency_s
        errors.append(abs(estimate.latency_s / truth - 1))
        covered += estimate.low_s <= truth <= estimate.high_s
    assert len(held) >= 10
    assert np.median(errors) < 0.05
    assert covered / len(held) >= 0.8


def test_unseen_shapes_are_predicted_and_refused_without_data():
    rows = recorded()
    shapes = {(r.shape.in_features, r.shape.out_features) for r in rows}
    assert len(shapes) >= 4
    held = max(shapes)
    known = [r for r in rows if (r.shape.in_features, r.shape.out_features) != held]
    table = LatencyTable(known, ROOFLINE)
    truth = [
        r for r in rows if (r.shape.in_features, r.shape.out_features) == held and r.shape.rank
    ]
    ratios = [table.estimate(r.shape).ratio / r.ratio for r in truth]
    assert table.estimate(truth[0].shape).source == "predicted"
    assert np.median(np.abs(np.log(ratios))) < 0.3

    empty = LatencyTable([], ROOFLINE)
    with pytest.raises(MeasurementError, match="autotune profile --tokens 128 --shape 256x512"):
        empty.estimate(shape(16))
    guess = LatencyTable([], ROOFLINE, allow_extrapolation=True).estimate(shape(16))
    assert guess.source == "roofline"
    assert guess.high_s / guess.low_s >= 10


def test_the_regressor_is_bit_equal_when_refitted():
    rows = recorded()
    shapes, seconds = [r.shape for r in rows], [r.latency_s for r in rows]
    probe = [shape(r, k, n) for r in (16, 48, 96) for k, n in ((256, 512), (700, 300))]
    first = LatencyRegressor(ROOFLINE).fit(shapes, seconds)
    second = LatencyRegressor(ROOFLINE).fit(shapes, seconds)
    assert (first.predict(probe) == second.predict(probe)).all()
    widths = [each.predict_with_half_widths(probe)[1] for each in (first, second)]
    assert (widths[0] == widths[1]).all()


def test_the_regressor_asks_for_enough_shapes():
    with pytest.raises(ValueError, match="shapes"):
        LatencyRegressor(ROOFLINE).fit([shape(r) for r in range(16, 160, 4)], [1e-3] * 36)


def test_the_regressor_learns_from_tokens_near_the_one_asked():
    """Points of 8192 tokens say little of 16, and a database of thousands takes long to fit."""
    sizes = (64, 128, 256, 512, 768)
    rows = []
    for tokens, factor in ((16, 2.0), (8192, 8.0)):
        for dense in [shape(k=k, n=n, m=tokens) for k in sizes for n in sizes]:
            seconds = factor * (ROOFLINE.latency_s(dense) + LAUNCH_S)
            rows.append(row(dense, seconds, seconds))
    table = LatencyTable(rows, ROOFLINE)
    for tokens, factor in ((16, 2.0), (8192, 8.0)):
        asked = shape(k=384, n=640, m=tokens)
        found = table.estimate(asked)
        assert found.source == "predicted"
        truth = factor * (ROOFLINE.latency_s(asked) + LAUNCH_S)
        assert found.latency_s == pytest.approx(truth, rel=1e-6)


def test_layers_as_arrays_are_those_by_hand():
    """A dense layer, a pair, and three layers that share a down factor."""
    shapes = [
        shape(),
        shape(24),
        LayerShape(
            tokens=7, in_features=96, out_features=128, form=low_rank(16), parts=(64, 32, 32)
        ),
    ]
    layers = LayerArrays.of(shapes)
    assert layers.pairs.tolist() == [False, True, True]
    assert layers.parts.tolist() == [0, 0, 3]
    assert layers.down.tolist() == [[128, 256, 512], [128, 256, 24], [7, 96, 16]]
    assert layers.up[1:].tolist() == [[128, 24, 512], [7, 16, 128]]
    assert layers.kept == pytest.approx([s.parameters / s.dense.parameters for s in shapes])
    assert layers.aligned.tolist() == [True, True, True]
    assert LayerArrays.of([shape(25), shape(24, k=257)]).aligned.tolist() == [False, False]
    own, dense = layers.roofline_s(ROOFLINE, "fp32")
    assert own[:2] == pytest.approx([ROOFLINE.latency_s(s) for s in shapes[:2]])
    assert dense[:2] == pytest.approx([ROOFLINE.latency_s(s.dense) for s in shapes[:2]])


def test_shared_products_are_found():
    draw = np.random.default_rng(0)
    sizes = np.array([1, 8, 16, 2.0**20, 2.0**20 + 1, 2.0**40])
    products = draw.choice(sizes, (200, 3))
    index, inverse = distinct(products)
    assert len(index) == len(np.unique(products, axis=0)) < 200
    assert (products[index][inverse] == products).all()


def test_half_widths_are_those_of_the_nearest_tokens_and_of_the_same_alignment():
    """Residuals of 0.1 at 16 tokens and 0.3 at 512, twice that where a size is odd."""
    shapes = [shape(k=k, n=n, m=m) for m in (16, 512) for n in (64, 65) for k in range(64, 544, 8)]
    layers = LayerArrays.of(shapes)
    residuals = np.where(layers.dense[:, 0] == 16, 0.1, 0.3) * np.where(layers.aligned, 1, 2)
    widths = _HalfWidths.of_residuals(residuals, layers, coverage=0.9)
    asked = [shape(m=m, n=n) for m in (1, 64, 128, 4096) for n in (72, 73)]
    found = widths.of(LayerArrays.of(asked))
    assert found == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.3, 0.6, 0.3, 0.6])
    few = _HalfWidths.of_residuals(
        residuals[::40], layers.of_rows(slice(None, None, 40)), coverage=0.9
    )
    assert np.isinf(few.of(layers)).all()


def test_a_pair_is_known_from_products_alone_and_its_term_from_pairs():
    """Where chained products cost 1.3 of their sum, pairs of other layers teach that."""
    sizes = (128, 256, 384, 512, 640, 768)
    singles = [shape(k=k, n=n) for k in sizes for n in sizes]
    pairs = [shape(r, k, n) for r in (64, 128) for k in sizes for n in sizes if k != n]
    held = [one for one in pairs if (one.in_features, one.out_features) == (384, 640)]

    def seconds(one):
        return (1.3 if one.rank else 1.0) * 2.5 * ROOFLINE.latency_s(one)

    known = [one for one in (*singles, *pairs) if one.dense != held[0].dense]
    regressor = LatencyRegressor(ROOFLINE).fit(known, [seconds(one) for one in known])
    guess, half_width = regressor.predict_with_half_widths(held)
    assert guess == pytest.approx([seconds(one) for one in held], rel=0.05)
    assert (half_width < 0.2).all()
    truth = [seconds(one) / seconds(one.dense) for one in held]
    ratios, alone, _ = regressor.predict_ratios(held, [True] * len(held))
    assert ratios == pytest.approx(truth, rel=0.05)
    assert regressor.predict_ratios(held, [False] * len(held))[2] == pytest.approx(half_width)
    # What a measurement of the dense layer misses, its pairs miss too.
    drifted = [*known, held[0].dense]
    rows = [row(one, seconds(one), seconds(one.dense)) for one in drifted[:-1]]
    rows.append(row(held[0].dense, 1.5 * seconds(held[0].dense), 1.5 * seconds(held[0].dense)))
    found = LatencyTable(rows, ROOFLINE).estimate(held[0])
    assert found.ratio == pytest.approx(truth[0], rel=0.05)
    assert found.latency_s == pytest.approx(1.5 * seconds(held[0].dense) * found.ratio)
    assert np.log(found.high_s / found.latency_s) == pytest.approx(alone[0], abs=0.02)


def test_asked_together_or_one_by_one_is_the_same():
    rows = recorded()
    wanted = [shape(rank, k, 640, 128) for k in (320, 448) for rank in (None, 16, 48, 160)]
    alone, together = (LatencyTable(rows, ROOFLINE) for _ in range(2))
    together.prepare(wanted)
    for one in wanted:
        left, right = (t.estimate(one).to_json() for t in (together, alone))
        assert left.pop("source") == right.pop("source")
        assert left == pytest.approx(right, rel=1e-9)  # sums of other order


def test_forms_are_predicted_from_points_of_their_own_only():
    """A pivoted pair between two measured ones is interpolated; plain ones say nothing of it."""
    pivoted = [shape().with_form(low_rank(rank, "pivoted")) for rank in (16, 64, 160)]
    rows = [*recorded(), row(shape(), 1e-3)]
    plain = LatencyTable(rows, ROOFLINE)
    assert plain.estimate(shape(64)).source == "predicted"
    with pytest.raises(MeasurementError, match=r"rank=64:pivoted; .* --form rank=64:pivoted"):
        plain.estimate(pivoted[1])
    assert (
        LatencyTable(rows, ROOFLINE, allow_extrapolation=True).estimate(pivoted[1]).source
        == "roofline"
    )
    both = LatencyTable([*rows, row(pivoted[0], 1e-4), row(pivoted[2], 8e-4)], ROOFLINE)
    between = both.estimate(pivoted[1])
    assert between.source == "interpolated"
    assert 1e-4 < between.latency_s < 8e-4
    assert between.ratio == pytest.approx(between.latency_s / 1e-3)
    assert both.estimate(pivoted[0]).source == "measured"
    assert both.estimate(shape(64)) == plain.estimate(shape(64))
