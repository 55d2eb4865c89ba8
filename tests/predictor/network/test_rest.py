"""The rest of a network: what the pieces add up to, and what is learned of a device's memory."""

import math

import numpy as np
import pytest

from autotune.core.layers import LayerShape
from autotune.core.operation import Operation
from autotune.core.types import Estimate
from autotune.devices.specs import find_device
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network import attention as attention_module
from autotune.predictor.network.attention import AttentionLatency
from autotune.predictor.network.rest import MemoryModel, rest_latency
from autotune.profiler.sources.aiconfigurator_attention import SHAPE, read_attention

H200 = find_device("h200")


def attend(**changes):
    shape = {"batch": 4, "heads": 32, "kv_heads": 8, "queries": 1024, "keys": 1024}
    return Operation(kind="attention", head_dim=128, causal=True, **{**shape, **changes})


def test_memory_is_learned_from_streaming_products():
    spec = find_device("a100")
    bandwidth, least_s = 1.6e12, 4e-6
    weights = np.array([1e3, 1e5, 1e7, 3e8, 6e8, 1.2e9])
    found = MemoryModel.learned(spec, weights, seconds=np.maximum(weights / bandwidth, least_s))
    assert found.bandwidth_bytes_s == pytest.approx(bandwidth)
    assert found.least_s == least_s
    assert found.latency_s(1.6e6) == pytest.approx(least_s + 1e-6)


def test_without_large_products_the_sheet_tells():
    found = MemoryModel.learned(H200, np.array([1e4]), seconds=np.array([3e-6]))
    assert 0.5 * H200.bandwidth_bytes_s < found.bandwidth_bytes_s < H200.bandwidth_bytes_s


class Constant(LatencyPredictor):
    """Every product takes ten microseconds, within a fifth."""

    def __init__(self):
        self.asked = []

    def estimate(self, shape):
        self.asked.append(shape)
        return Estimate(
            latency_s=10e-6, low_s=10e-6 / 1.2, high_s=12e-6, ratio=1.0, source="imported"
        )


def test_the_rest_is_the_sum_of_its_kernels():
    memory = MemoryModel(bandwidth_bytes_s=1e12, least_s=2e-6)
    attention, products = AttentionLatency(H200, "bf16"), Constant()
    operations = [
        Operation(kind="memory", reads=((0, 500_000),), writes=((1, 500_000),)),
        Operation(kind="layer", reads=((1, 10**9),), writes=((2, 10**9),)),
        attend(),
        Operation(kind="product", queries=7, head_dim=64, keys=101),
    ]
    found = rest_latency(operations, "bf16", memory=memory, attention=attention, products=products)
    parts = (3e-6, float(attention.seconds([attend()])[0]), 10e-6)
    assert found.latency_s == pytest.approx(sum(parts))
    # Nobody timed a width of 101: the next multiple of 32 is taken.
    assert products.asked == [LayerShape(tokens=7, in_features=64, out_features=128, dtype="bf16")]
    assert 0 < found.half_width < math.log(2)
    nothing = rest_latency([], "bf16", memory=memory, attention=attention, products=products)
    assert (nothing.latency_s, nothing.half_width) == (0.0, 0.0)


@pytest.mark.parametrize("device", ["a100-sxm", "h200-sxm", "l40s"])
def test_attention_tables_are_plausible(device):
    rows = read_attention(device)
    assert list(rows.columns) == [*SHAPE, "latency_s"]
    assert len(rows) > 1000 and not rows.duplicated(SHAPE).any()
    assert (rows["latency_s"] > 0).all() and (rows["kv_heads"] > 0).all()
    assert (rows["heads"] % rows["kv_heads"] == 0).mean() > 0.95
    assert {True, False} <= set(rows["causal"])


def test_attention_follows_its_table_within_its_interval():
    """Rows that it may have seen, so a low bar: nine tenths within the interval of unseen ones."""
    spec = find_device("a100")
    rows = read_attention("a100-sxm").sample(500, random_state=1)
    model = AttentionLatency(spec, "bf16")
    operations = [
        Operation(kind="attention", **{name: getattr(row, name) for name in SHAPE})
        for row in rows.itertuples()
    ]
    errors = np.abs(np.log(model.seconds(operations) / rows["latency_s"].to_numpy()))
    assert np.mean(errors <= model.half_width) > 0.9
    assert np.median(errors) < 0.1


def test_longer_attention_takes_longer():
    model = AttentionLatency(H200, "bf16")
    seconds = model.seconds([attend(queries=n, keys=n) for n in (256, 1024, 4096)])
    assert (np.diff(seconds) > 0).all()


def test_without_tables_attention_is_a_roofline_and_says_so(monkeypatch):
    monkeypatch.setattr(attention_module, "attention_files", lambda *_: [])
    model = AttentionLatency(H200, "bf16")
    assert "roofline" in model.source
    flops = 4 * 4 * 32 * 1024 * 1024 * 128 / 2
    assert model.seconds([attend()])[0] > flops / H200.peak_flops["bf16"]
