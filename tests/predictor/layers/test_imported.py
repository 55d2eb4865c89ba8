"""Layers priced from others' products: exact where timed, summed, refused where nobody timed."""

from dataclasses import replace

import pytest

from autotune.core.errors import MeasurementError
from autotune.core.layers import LayerShape
from autotune.devices.specs import find_device
from autotune.predictor.layers.imported import ImportedLatency
from autotune.profiler.sources.aiconfigurator import consensus, read_tables
from tests.forms import form_of

SPEC = find_device("a100")


def layer(rank=None, tokens=512, k=1024, n=4096, parts=()):
    return LayerShape(
        tokens=tokens, in_features=k, out_features=n, form=form_of(rank), dtype="bf16", parts=parts
    )


@pytest.fixture(scope="module")
def latency():
    return ImportedLatency(SPEC, read_tables("a100-sxm"))


@pytest.fixture(scope="module")
def timed():
    rows = consensus(read_tables("a100-sxm"))
    return rows.set_index(["m", "k", "n"])["latency_s"]


def test_what_was_timed_is_returned_and_a_pair_is_the_sum(latency, timed):
    dense, pair = latency.estimates([layer(), layer(256)])
    assert dense.latency_s == timed[512, 1024, 4096]
    assert pair.latency_s == pytest.approx(timed[512, 1024, 256] + timed[512, 256, 4096])
    assert pair.ratio == pytest.approx(pair.latency_s / dense.latency_s)
    assert (dense.source, pair.source, dense.ratio) == ("imported", "imported", 1.0)
    assert dense.low_s == dense.latency_s == dense.high_s  # transfer.py adds what others miss
    assert latency.estimate(layer(256)) == pair


def test_a_joint_layer_shares_its_down_product(latency, timed):
    parts = (1024, 256, 256)
    whole = latency.estimate(layer(128, n=1536, parts=parts))
    ups = sum(timed[512, 128, n] for n in parts)
    assert whole.latency_s == pytest.approx(timed[512, 1024, 128] + ups)


def test_other_sizes_are_predicted_between_their_neighbours(latency, timed):
    found = latency.estimate(layer(k=1024, n=14336))
    assert found.source == "predicted"
    assert timed[512, 1024, 12288] * 0.9 < found.latency_s < timed[512, 1024, 16384] * 1.1
    assert found.low_s < found.latency_s < found.high_s
    odd = latency.estimate(layer(tokens=700))
    assert timed[512, 1024, 4096] * 0.9 < odd.latency_s < timed[1024, 1024, 4096] * 1.1


def test_a_size_nobody_timed_is_refused(latency):
    with pytest.raises(MeasurementError, match="multiples of 32"):
        latency.estimate(layer(1001))


def test_a_fit_kept_for_some_rows_of_a_table_is_not_taken_for_others():
    """Both have one name: what is held out of a table would be predicted by the other's fit."""
    whole = read_tables("a100-sxm")[0]

    def of(tokens):
        rows = whole.rows[whole.rows["m"].isin(tokens) & (whole.rows["k"] <= 1024)]
        return ImportedLatency(SPEC, [replace(whole, rows=rows)])

    few, more = of([256, 1024]), of([256, 512, 1024])
    asked = layer(tokens=700)
    first, other = few.estimate(asked).latency_s, more.estimate(asked).latency_s
    assert first != other
    assert of([256, 1024]).estimate(asked).latency_s == first
    assert first == pytest.approx(other, rel=0.3)
