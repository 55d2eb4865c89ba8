"""Whole columns of layers are answered as each layer by itself."""

import math

import numpy as np
import pytest

from autotune.core.errors import NotPricedError
from autotune.core.forms import parse_form
from autotune.core.layer_columns import LayerColumns
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import Roofline, product_columns, products
from autotune.devices.specs import find_device
from autotune.predictor.columns import EstimateColumns
from autotune.predictor.layers.device_table import device_table
from autotune.predictor.layers.extrapolated import ExtrapolatedLatency
from autotune.predictor.layers.imported import ImportedLatency
from autotune.predictor.layers.own_points import OwnPoints
from autotune.predictor.products.donors import UnseenDevice
from autotune.profiler.database.records import Measurement
from autotune.profiler.sources.aiconfigurator import read_tables
from tests.predictor.layers.test_extrapolated import donors
from tests.profiler.points import point

__all__ = ["donors"]
pytestmark = pytest.mark.duration(60)
A100 = find_device("a100")
FORMS = (
    "dense",
    "rank=32",
    "rank=64",
    "rank=96",
    "rank=97",
    "rank=128:pivoted",
    "dense:int8-static",
)


def layers(count, *, tokens=(1, 64, 777, 2048, 500_000), seed=0):
    """Dense layers and pairs of all forms, some of them joint, of odd sizes or beyond a table."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        k, n = (int(size) for size in draw.choice([96, 100, 1024, 4096, 5120, 200_000], 2))
        parts = (n // 2, n // 4, n // 4) if draw.random() < 0.2 else ()
        found.append(
            LayerShape(
                tokens=int(draw.choice(tokens)),
                in_features=k,
                out_features=sum(parts) or n,
                form=parse_form(str(draw.choice(FORMS))),
                dtype="bf16",
                parts=parts,
            )
        )
    return found


def measured(shapes, known):
    """Points of a board that is a tenth slower, with pairs that cost a third more."""
    rows = []
    for shape in shapes:
        dense_s = 1.1 * known.estimate(shape.dense).latency_s
        ratio = 1.3 * known.estimate(shape).ratio if shape.rank else 1.0
        times = {"latency_s": dense_s * ratio, "dense_latency_s": dense_s, "ratio": ratio}
        times |= {"ratio_low": 0.99 * ratio, "ratio_high": 1.01 * ratio}
        rows.append(Measurement(**{**vars(point()), "shape": shape, **times}))
    return rows


def make_imported(donors):
    del donors
    return device_table(A100, "bf16", backend="torch-cudagraph").predictor


def make_shipped(donors):
    del donors
    return device_table(find_device("h200"), "bf16", backend="torch-cudagraph").predictor


def make_extrapolated(donors):
    return ExtrapolatedLatency(UnseenDevice(find_device("rtx-4090")).fit(donors))


def make_corrected(donors):
    """By every third of the plain layers that are asked for."""
    known = make_imported(donors)
    plain = [s for s in dict.fromkeys(layers(300)) if not s.form.suffix and not s.parts]
    answers = zip(plain, known.answers(plain), strict=True)
    priced = [s for s, a in answers if isinstance(a, Estimate) and a.source != "extrapolated"]
    return OwnPoints(known, measured(priced[::3], known), roofline=Roofline.of(A100, 1))


@pytest.mark.parametrize(
    ("make", "sources"),
    [
        (make_imported, {"imported", "predicted", "extrapolated"}),
        pytest.param(
            make_shipped,
            {"measured", "interpolated", "predicted", "extrapolated"},
            marks=pytest.mark.slow,
        ),
        (make_extrapolated, {"extrapolated"}),
        (make_corrected, {"measured", "imported", "predicted", "extrapolated"}),
    ],
)
def test_columns_are_answered_like_single_layers(make, sources, donors):
    """Refused ones too, with their reasons."""
    predictor, alone = make(donors), make(donors)
    # What is learned of layers depends on rounding where a tree splits between the two values.
    off = 0.02 if make is make_shipped else 1e-9
    # Every number of tokens takes a fit of its own where the device was measured by this profiler.
    shapes = layers(300, **({"tokens": (2048, 500_000)} if make is make_shipped else {}))
    found = predictor.answer_columns(LayerColumns.of(shapes)).answers()
    seen = set()
    for shape, answer in zip(shapes, found, strict=True):
        try:
            expected = alone.estimate(shape)
        except NotPricedError as error:
            assert isinstance(answer, NotPricedError), shape
            assert str(answer) == str(error)
            continue
        assert isinstance(answer, Estimate), shape
        ours, theirs = answer.to_json(), expected.to_json()
        seen.add(ours["source"])
        assert ours.pop("source") == theirs.pop("source")
        assert ours == pytest.approx(theirs, rel=off), shape
    assert seen == sources
    assert any(isinstance(answer, NotPricedError) for answer in found)


@pytest.fixture(scope="module")
def imported():
    return ImportedLatency(A100, read_tables("a100-sxm"))


def test_a_layer_is_the_sum_of_its_products(imported):
    """Product by product, as the sums of columns say it."""
    shapes = [s for s in layers(120) if not s.form.suffix]
    for shape, found in zip(shapes, imported.answers(shapes), strict=True):
        if not isinstance(found, Estimate):
            assert any(size % 32 for product in products(shape) for size in product[1:])
            continue
        own, dense = (
            imported._price(np.array(products(each), dtype=float)) for each in (shape, shape.dense)
        )
        low_s, high_s = sum(own.latency_s / own.factor), sum(own.latency_s * own.factor)
        assert found.latency_s == pytest.approx(sum(own.latency_s))
        assert (found.low_s, found.high_s) == pytest.approx((low_s, high_s))
        assert found.ratio == pytest.approx(sum(own.latency_s) / sum(dense.latency_s))
        assert found.source == (own.source[0] if len(set(own.source)) == 1 else "predicted")
        ends = [
            sum(each.latency_s * each.factor) / sum(each.latency_s / each.factor)
            for each in (own, dense)
        ]
        of_ratio = math.hypot(*(math.log(end) / 2 for end in ends)) if shape.rank else 0.0
        assert found.ratio_half_width == pytest.approx(of_ratio)


def test_products_of_columns_are_those_of_each_layer():
    shapes = layers(80)
    rows, owner = product_columns(LayerColumns.of(shapes))
    for i, shape in enumerate(shapes):
        assert [tuple(row) for row in rows[owner == i]] == products(shape)


def test_a_roofline_of_columns_is_that_of_each_layer():
    shapes, roofline = layers(80), Roofline.of(A100, 1)
    expected = [roofline.latency_s(shape) for shape in shapes]
    assert roofline.latencies_s(LayerColumns.of(shapes)) == pytest.approx(expected, rel=1e-12)


def test_estimates_become_columns_and_back():
    known = Estimate(latency_s=2.0, low_s=1.0, high_s=4.0, ratio=0.5, source="measured")
    exact = Estimate(
        latency_s=1.0, low_s=1.0, high_s=1.0, ratio=1.0, source="imported", ratio_half_width=0.0
    )
    answers = [known, NotPricedError("no"), exact]
    columns = EstimateColumns.of(answers)
    assert columns.answers() == answers
    for name in ("ratio_low", "ratio_high"):
        assert getattr(columns, name)[[0, 2]].tolist() == [getattr(a, name) for a in (known, exact)]
    assert columns.rows(np.array([2, 1])).answers() == [exact, answers[1]]
    error = NotPricedError("beyond")
    assert columns.without({0: error}).answers() == [error, *answers[1:]]
    part = (np.array([1]), EstimateColumns.of([exact]))
    assert EstimateColumns.merged(2, [part], refused={0: error}).answers() == [error, exact]
