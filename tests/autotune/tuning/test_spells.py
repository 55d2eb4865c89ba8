"""The interval of a network's ratio for any other time than that of its measurement."""

import pytest

from autotune.core.forms import DENSE, low_rank
from autotune.results.measured import MeasuredPass
from autotune.tuning.network_timing import layer_looks, product_sd_s
from autotune.tuning.spells import at_any_time

TIMED = MeasuredPass(
    name="prefill",
    count=1,
    latency_s=0.008,
    dense_latency_s=0.010,
    ratio=0.8,
    ratio_low=0.79,
    ratio_high=0.81,
)
# Six products of the dense network are eight, two of them of three layers with one down factor.
COVERED = [(1, DENSE), (1, low_rank(8)), (1, DENSE), (3, low_rank(16))]


def test_more_products_than_the_ratio_allows_for_widen_it():
    """By (8 - 0.8 * 6) products of 12 us in 10 ms, beside what the measurement does not know."""
    found = at_any_time(TIMED, COVERED, product_sd_s=12e-6)
    by = 1.96 * (8 - 0.8 * 6) * 12e-6 / 0.010
    half = (0.01**2 + by**2) ** 0.5
    assert found.ratio_low == pytest.approx(0.8 - half, rel=1e-5)
    assert found.ratio_high == pytest.approx(0.8 + half, rel=1e-5)
    assert (found.ratio, found.latency_s) == (0.8, 0.008)


@pytest.mark.parametrize(
    ("covered", "product_sd_s"),
    [(COVERED, 0.0), ([], 12e-6)],
)
def test_where_nothing_changes_from_time_to_time_it_stays(covered, product_sd_s):
    assert at_any_time(TIMED, covered, product_sd_s=product_sd_s) == TIMED


def test_a_network_of_microseconds_is_not_beyond_all_doubt():
    """Its products are computed on one core: the interval has a limit."""
    found = at_any_time(TIMED, [(1, low_rank(8))] * 1000, product_sd_s=12e-6)
    assert found.ratio_high == pytest.approx(0.8 + (0.01**2 + (1.96 * 0.03 * 0.8) ** 2) ** 0.5)


def test_on_one_thread_no_core_waits_for_another():
    assert (product_sd_s("cpu", 1), layer_looks("cpu", 1).seconds) == (0.0, 0.0)
    assert product_sd_s("cpu", 2) > 0 < layer_looks("cpu", 2).seconds
    assert product_sd_s("cuda", 2) == 0.0
