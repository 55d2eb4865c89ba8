"""Sums over several devices: between the tensors of a table, beyond them, and over its stacks."""

import math

import pandas as pd
import pytest

from autotune.core.errors import UsageError
from autotune.predictor.network import all_reduce
from autotune.predictor.network.all_reduce import AllReduceLatency
from autotune.profiler.sources.aiconfigurator_allreduce import read_all_reduces


@pytest.fixture
def rows(monkeypatch):
    """Two stacks that take 10 us and a nanosecond an element, one of them twice as long."""
    found = pd.DataFrame(
        [
            (devices, values, factor * (1e-5 + 1e-9 * values), stack)
            for devices in (2, 8)
            for values in (1 << 10, 1 << 14, 1 << 20, 1 << 24)
            for stack, factor in (("one", 1.0), ("two", 4.0))
        ],
        columns=["devices", "values", "latency_s", "stack"],
    )
    monkeypatch.setattr(all_reduce, "read_all_reduces", lambda device: found)
    return found


def test_a_known_tensor_has_the_median_of_the_stacks_and_their_distance(rows):
    seconds, width = AllReduceLatency("a100-sxm", 2).seconds(1 << 20)
    assert seconds == pytest.approx(2 * (1e-5 + 1e-9 * (1 << 20)))
    assert width == pytest.approx(math.log(2))


def test_between_and_beyond_tensors(rows):
    sums = AllReduceLatency("a100-sxm", 2)
    first, second = sums.seconds(1 << 20)[0], sums.seconds(1 << 24)[0]
    assert first < sums.seconds(1 << 22)[0] < second
    assert sums.seconds(1 << 26)[0] == pytest.approx(4 * second)
    assert sums.seconds(1)[0] == sums.seconds(1 << 10)[0]


def test_numbers_of_devices_without_a_table_are_refused(rows):
    with pytest.raises(UsageError, match=r"tensor_parallel 3: .* with a table: 2, 8"):
        AllReduceLatency("a100-sxm", 3)


def test_a_device_without_a_table_is_refused():
    with pytest.raises(UsageError, match="with a table: none"):
        AllReduceLatency("a40", 2)


@pytest.mark.parametrize("device", ["a100-sxm", "h100-sxm", "h200-sxm"])
def test_the_tables_of_others_are_seconds_that_links_allow(device):
    found = read_all_reduces(device)
    assert set(found["devices"]) >= {2, 4, 8}
    assert found["latency_s"].between(1e-6, 1.0).all()
    small, large = (AllReduceLatency(device, 8).seconds(n)[0] for n in (4096, 1 << 26))
    assert 2e-6 < small < 1e-4
    # 128 MB twice over links of 300 to 900 GB/s.
    assert 1e-4 < large < 2e-3
