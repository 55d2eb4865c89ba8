"""A few points of the very device, on top of what is known of it from elsewhere."""

import math
from dataclasses import replace

import pytest

from autotune.core.errors import NotPricedError
from autotune.core.forms import low_rank, parse_form
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.device_table import device_table
from autotune.predictor.layers.own_points import OwnPoints
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Measurement
from tests.profiler.points import FINGERPRINT, point

SPEC = find_device("a100-sxm")
ROOFLINE = Roofline.of(SPEC, 1)
SIZES = [(m, k, n) for m in (8, 256, 2048) for k in (512, 1024, 2048) for n in (1024, 3072, 4096)]


class Elsewhere(LatencyPredictor):
    """A third above the roofline, within a factor of 1.2; ratios within one of 1.1."""

    interval = "transfer"

    def estimate(self, shape):
        if shape.in_features == 96:
            raise NotPricedError("unknown")
        seconds = ROOFLINE.latency_s(shape) / 0.75
        return Estimate(
            latency_s=seconds,
            low_s=seconds / 1.2,
            high_s=seconds * 1.2,
            ratio=seconds / (ROOFLINE.latency_s(shape.dense) / 0.75),
            source="predicted",
            ratio_half_width=math.log(1.1),
        )


def layer(size, form=None):
    m, k, n = size
    dense = LayerShape(tokens=m, in_features=k, out_features=n, dtype="bf16")
    return dense.with_form(form) if form else dense


def measured(shape, *, slower=1.0, of_ratio=1.0):
    """On a board that is slower as a whole, and whose pairs are."""
    known = Elsewhere()
    dense_s = slower * known.estimate(shape.dense).latency_s
    ratio = 1.0 if not shape.rank else of_ratio * known.estimate(shape).ratio
    return Measurement(
        **{
            **vars(point()),
            "shape": shape,
            "latency_s": dense_s * ratio,
            "dense_latency_s": dense_s,
            "ratio": ratio,
            "ratio_low": ratio * 0.99,
            "ratio_high": ratio * 1.01,
        }
    )


def corrected(rows):
    return OwnPoints(Elsewhere(), rows, roofline=ROOFLINE)


def test_what_was_measured_is_answered_as_it_was():
    row = measured(layer(SIZES[0], low_rank(64)), slower=1.5, of_ratio=1.1)
    found = corrected([row]).estimate(row.shape)
    assert (found.latency_s, found.source) == (row.latency_s, "measured")
    assert found.ratio == pytest.approx(row.ratio)
    assert found.low_s < 0.98 * row.latency_s, "another day is further away than its own interval"
    assert found.ratio_low < 0.98 * row.ratio


def test_points_of_a_file_have_intervals_though_it_has_none():
    exact = {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
    row = replace(measured(layer(SIZES[0])), **exact)
    found = corrected([row]).estimate(row.shape)
    assert found.low_s < found.latency_s < found.high_s
    assert (found.ratio_low, found.ratio_high) == (1.0, 1.0)


def test_a_slower_board_has_other_seconds_and_the_same_ratios():
    rows = [measured(layer(size), slower=1.5) for size in SIZES[:24]]
    known = corrected(rows)
    asked = layer(SIZES[-1], low_rank(256))
    found, before = known.estimate(asked), Elsewhere().estimate(asked)
    assert found.latency_s == pytest.approx(1.5 * before.latency_s, rel=0.05)
    assert found.ratio == before.ratio
    assert found.ratio_high / found.ratio == pytest.approx(1.1)
    assert "seconds corrected by" in known.changes() and "ratios" not in known.changes()
    dense = known.estimate(asked.dense)
    assert dense.log_half_width < math.log(1.2), "the errors of points left out are its width"
    assert (dense.ratio, dense.ratio_low, dense.ratio_high) == (1.0, 1.0, 1.0)


def test_pairs_that_cost_more_correct_ratios_of_pairs_and_nothing_else():
    rows = [measured(layer(size, low_rank(128)), of_ratio=1.3) for size in SIZES[:24]]
    known = corrected(rows)
    asked = layer(SIZES[-1], low_rank(256))
    assert known.estimate(asked).ratio == pytest.approx(
        1.3 * Elsewhere().estimate(asked).ratio, rel=0.05
    )
    before = Elsewhere().estimate(asked.dense)
    assert known.estimate(asked.dense).latency_s == pytest.approx(before.latency_s)
    int8 = asked.with_form(parse_form("rank=256:int8-static"))
    assert known.estimate(int8).ratio == Elsewhere().estimate(int8).ratio


def test_points_that_nobody_else_can_price_teach_nothing():
    known = corrected([measured(layer(SIZES[0])), replace(point(0), shape=layer((8, 96, 512)))])
    assert known.estimate(layer(SIZES[1])).latency_s > 0
    assert known.points == 2


@pytest.fixture
def database(tmp_path):
    """A few points of an A100 that is half as fast as others' tables say."""
    elsewhere = device_table(SPEC, "bf16", backend="torch-cudagraph").predictor
    mine = replace(
        FINGERPRINT, device=SPEC.name, device_name=SPEC.title, dtype="bf16", backend="torch-eager"
    )
    rows = []
    for size in SIZES[9:18]:
        seconds = 2.0 * elsewhere.estimate(layer(size)).latency_s
        times = {"latency_s": seconds, "dense_latency_s": seconds}
        times |= {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
        rows.append(Measurement(**{**vars(point()), "shape": layer(size), **times}))
    path = tmp_path / "latency.sqlite"
    with LatencyDatabase(path) as store:
        store.add(store.start_run(mine, "test"), rows)
    return path, rows


def test_a_few_points_in_the_database_correct_others_tables(database):
    path, rows = database
    table = device_table(SPEC, "bf16", backend="torch-cudagraph", database=path)
    plain = device_table(SPEC, "bf16", backend="torch-cudagraph")
    assert any("9 points of the database (torch-eager)" in text for text in table.sources)
    assert table.predictor.estimate(rows[0].shape).source == "measured"
    asked = layer((256, 4096, 4096))
    ratio = table.predictor.estimate(asked).latency_s / plain.predictor.estimate(asked).latency_s
    assert 1.4 < ratio < 2.1
