"""Beyond a table: from its edge by the roofline, wider with every doubling, and marked so."""

import math

import numpy as np
import pytest

import autotune
from autotune.core.errors import AutotuneError
from autotune.core.forms import DENSE, low_rank
from autotune.core.layer_columns import LayerColumns
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.edges import Edges, WithinEdges
from autotune.predictor.products.features import roofline_s

A100 = Roofline.of(find_device("a100"), 1)
SIZES = [float(2**i) for i in range(5, 13)]
PRODUCTS = np.array([(m, k, n) for m in SIZES for k in SIZES for n in SIZES])


def edges(*, growth=0.0):
    """Of a table that falls behind the roofline by `growth` (log) with every doubling of M."""
    seconds = 2.0 * roofline_s(PRODUCTS, A100, dtype="bf16")
    seconds *= np.exp(growth * np.log2(PRODUCTS[:, 0]))
    return Edges.of(PRODUCTS, seconds, roofline=A100, dtype="bf16")


def layer(tokens, in_features, out_features, *, rank=0, parts=()):
    return LayerShape(
        tokens=tokens,
        in_features=in_features,
        out_features=out_features,
        form=low_rank(rank) if rank else DENSE,
        dtype="bf16",
        parts=parts,
    )


class Twice(LatencyPredictor):
    """Twice the roofline, within a tenth; refuses what is beyond 4096."""

    def estimate(self, shape):
        assert max(shape.tokens, shape.in_features, shape.out_features) <= 4096
        seconds, dense_s = (2 * A100.latency_s(each) for each in (shape, shape.dense))
        return Estimate(
            latency_s=seconds,
            low_s=seconds / 1.1,
            high_s=seconds * 1.1,
            ratio=seconds / dense_s,
            source="imported",
        )


def within(**given):
    return WithinEdges(Twice(), edges(**given), roofline=A100)


def test_a_table_tells_how_far_a_doubling_is_off():
    found = edges(growth=0.2)
    assert (found.tokens, found.in_features, found.out_features) == (4096, 4096, 4096)
    assert found.doubling == pytest.approx((0.2, 0.0, 0.0), abs=1e-9)


def test_within_the_table_nothing_changes():
    shape = layer(2048, 4096, 4096, rank=512)
    assert within().estimate(shape) == Twice().estimate(shape)


@pytest.mark.parametrize(
    "shape",
    [
        layer(8192, 4096, 4096),
        layer(16384, 4096, 4096, rank=1024),
        layer(64, 11008, 4096),
        layer(64, 4096, 128_256, rank=64),
        layer(4096, 4096, 12288, rank=256, parts=(4096, 4096, 4096)),
    ],
)
def test_beyond_it_the_roofline_scales(shape):
    found = within(growth=0.2).estimate(shape)
    assert found.source == "extrapolated"
    assert found.latency_s == pytest.approx(2 * A100.latency_s(shape))
    assert found.ratio == pytest.approx(A100.latency_s(shape) / A100.latency_s(shape.dense))
    assert found.ratio_low <= found.ratio <= found.ratio_high
    assert found.high_s / found.latency_s >= 1.1 - 1e-9


def test_each_doubling_widens_the_interval():
    widths = [
        within(growth=0.2).estimate(layer(tokens, 4096, 4096)).log_half_width
        for tokens in (4096, 8192, 16384)
    ]
    assert widths == pytest.approx([math.log(1.1) + 0.2 * way for way in (0, 1, 2)])


def test_a_size_that_is_cut_keeps_its_alignment():
    (near,) = edges().nearest(LayerColumns.of([layer(64, 4100, 128_257, rank=4099)])).shapes()
    assert (near.in_features % 128, near.out_features % 128) == (4100 % 128, 128_257 % 128)
    assert near.rank <= min(near.in_features, near.out_features)
    assert near.rank % 128 == 4099 % 128


@pytest.mark.parametrize("device", ["a100", "h200"])
@pytest.mark.parametrize(
    ("tokens", "shape", "problem"),
    [
        (10**6, "4096x4096", "lie beyond what was measured"),
        (10**9, "4096x4096", "need 16.4 TB"),
        (1, "9999872x9999872", "need 200 TB"),
    ],
)
def test_beyond_the_table_an_answer_is_refused_unless_a_guess_is_wanted(
    device, tokens, shape, problem
):
    asked = {"device": device, "tokens": tokens, "shape": shape}
    with pytest.raises(AutotuneError, match=problem) as refused:
        autotune.predict(**asked)
    assert refused.value.exit_code == 2
    if "need" in problem:  # no guess helps what the memory cannot hold
        with pytest.raises(AutotuneError, match=problem):
            autotune.predict(**asked, allow_extrapolation=True)
        return
    (found,) = autotune.predict(**asked, allow_extrapolation=True).estimates
    assert found.source == "extrapolated"
    inside = autotune.predict(device=device, tokens=2048, shape=shape).estimates[0]
    assert found.log_half_width > inside.log_half_width
