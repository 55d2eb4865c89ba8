"""Layers in other precisions by others' ratios: between their products, beyond them, and kept."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from autotune.core import paths
from autotune.core.errors import NotPricedError
from autotune.core.forms import Form, low_rank
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers import precisions
from autotune.predictor.layers.precisions import (
    PricedPrecision,
    StackRatios,
    held_out_errors,
    stacks_of,
)
from autotune.predictor.layers.transfer import Transfer
from autotune.profiler.sources.aiconfigurator_precisions import PrecisionTable, read_precisions

SIZES = [2**i for i in range(8, 15)]
NO_TRANSFER = Transfer(seconds=(0.0,) * 3, ratio=(0.0,) * 3)


def table(ratio, precision="fp8"):
    """A stack's ratios as a function of M, K and N."""
    rows = pd.DataFrame(product([1, 16, 256, 4096], SIZES, SIZES), columns=["m", "k", "n"])
    rows["ratio"] = [ratio(*row) for row in rows.itertuples(index=False)]
    return PrecisionTable(precision=precision, stack="stack 1.0", rows=rows)


class Dense(LatencyPredictor):
    """Every layer takes a millisecond, within a tenth."""

    def estimate(self, shape):
        ratio = 0.5 if shape.rank else 1.0
        return Estimate(latency_s=1e-3, low_s=0.9e-3, high_s=1.1e-3, ratio=ratio, source="imported")


def layer(precision="fp8", tokens=16):
    form = Form(precision=precision)
    return LayerShape(tokens=tokens, in_features=1024, out_features=4096, form=form, dtype="bf16")


def test_a_known_product_has_its_own_ratio():
    ratios = StackRatios.of(table(lambda m, k, n: 0.5 if (m, k, n) == (16, 1024, 4096) else 2.0))
    log, width = ratios.log_ratio(16, in_features=1024, out_features=4096)
    assert math.exp(log) == pytest.approx(0.5, rel=1e-6)
    assert width == 0.0


def test_between_products_a_ratio_is_between_theirs_with_what_left_out_ones_missed():
    ratios = StackRatios.of(table(lambda m, k, n: 1 + 1e-4 * k))
    log, width = ratios.log_ratio(16, in_features=1448, out_features=4096)
    assert 1.1024 < math.exp(log) < 1.2048
    assert 0 < width < 0.5
    assert StackRatios.of(table(lambda *_: 0.7)).half_widths == pytest.approx((0.0,) * 3, abs=1e-9)


@pytest.mark.parametrize(("tokens", "k"), [(1 << 20, 1024), (16, 1 << 16)])
def test_beyond_the_table_nothing_is_known(tokens, k):
    ratios = StackRatios.of(table(lambda *_: 0.7))
    with pytest.raises(NotPricedError, match="beyond the table of fp8 by stack"):
        ratios.log_ratio(tokens, in_features=k, out_features=4096)


def test_dense_layers_in_the_precision_have_the_ratio_and_others_are_as_before():
    priced = PricedPrecision(Dense(), StackRatios.of(table(lambda *_: 0.7)), transfer=NO_TRANSFER)
    found = priced.estimate(layer())
    assert (found.ratio, found.latency_s) == pytest.approx((0.7, 0.7e-3))
    assert found.ratio_low == pytest.approx(0.7)
    for other in (layer().dense, layer("int8-static"), layer().with_form(low_rank(64))):
        assert priced.estimate(other) == Dense().estimate(other)


def test_the_interval_holds_other_boards_and_stacks():
    transfer = Transfer(seconds=(0.0,) * 3, ratio=(0.2, 0.1, 0.1))
    priced = PricedPrecision(Dense(), StackRatios.of(table(lambda *_: 0.7)), transfer=transfer)
    for tokens, width in ((16, 0.2), (256, 0.1)):
        found = priced.estimate(layer(tokens=tokens))
        assert math.log(found.ratio_high / found.ratio) == pytest.approx(width)
        assert math.log(found.ratio / found.ratio_low) == pytest.approx(width)
        assert found.low_s <= found.latency_s <= found.high_s


@pytest.mark.parametrize(("device", "bound"), [("a100-sxm", 0.15), ("l40s", 0.35)])
def test_left_out_products_are_priced_from_their_neighbours(device, bound):
    """Half of them are much nearer than a guess of the mean, and the interval holds nine in ten."""
    found = read_precisions(device)
    assert found
    for one in found:
        rows = one.rows[["m", "k", "n"]].to_numpy(float)
        logs = np.log(one.rows["ratio"].to_numpy())
        errors, tokens = held_out_errors(rows, logs)
        assert np.median(errors) < min(bound, 0.5 * np.median(np.abs(logs - np.median(logs))))
        widths = np.array(StackRatios.of(one).half_widths)
        held = errors <= widths[np.searchsorted((16, 512), tokens)]
        assert 0.89 <= held.mean() <= 0.92


def test_stacks_are_learned_once(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    read = []

    def tables(device):
        read.append(device)
        return [table(lambda *_: 0.7), table(lambda *_: 0.9), table(lambda *_: 0.5, "nvfp4")]

    monkeypatch.setattr(precisions, "read_precisions", tables)
    first, again = stacks_of("a100-sxm"), stacks_of("a100-sxm")
    assert read == ["a100-sxm"]
    for found in (first, again):
        assert {name: len(stacks) for name, stacks in found.items()} == {"fp8": 2, "nvfp4": 1}
        asked = {"in_features": 1448, "out_features": 4096}
        assert found["fp8"][0].log_ratio(16, **asked) == first["fp8"][0].log_ratio(16, **asked)
    assert stacks_of("h100-sxm")
    assert read == ["a100-sxm", "h100-sxm"]
    for path in paths.fits_cache().iterdir():
        path.write_bytes(b"damaged")
    assert stacks_of("a100-sxm")["nvfp4"]
    assert len(read) == 3


def test_a_device_that_nobody_timed_has_none(monkeypatch):
    assert stacks_of("a40") == {}
    monkeypatch.setattr(precisions, "package_folder", lambda: None)
    assert stacks_of("a100-sxm") == {}
