"""Met, missed or undecided: one rule for tune, bench, verify, service and exit code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.errors import UsageError
from autotune.results.verdict import Verdict, latency_limit

MET, MISSED, UNDECIDED = Verdict.MET, Verdict.MISSED, Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("limit", "low", "ratio", "high", "expected"),
    [
        (0.85, 0.80, 0.82, 0.85, MET),  # ends at the limit
        (0.85, 0.80, 0.82, 0.86, UNDECIDED),
        (0.85, 0.84, 0.86, 0.87, UNDECIDED),
        (0.85, 0.85, 0.86, 0.87, UNDECIDED),  # begins at the limit, which it contains
        (0.85, 0.851, 0.86, 0.87, MISSED),
        (1.0, 0.99, 1.0, 1.01, UNDECIDED),  # a budget of 1x asks for proof
        (None, 0.97, 0.98, 1.0, MET),
        (None, 0.97, 0.99, 1.02, MET),  # equal as far as can be told
        (None, 0.97, 0.99, 1.021, UNDECIDED),
        (None, 0.99, 1.001, 1.01, UNDECIDED),  # above 1 is no equality
        (None, 1.001, 1.005, 1.01, MISSED),
    ],
)
def test_the_interval_decides(limit, low, ratio, high, expected):
    assert Verdict.of(limit, ratio, ratio_low=low, ratio_high=high) is expected


RATIOS = st.floats(0.01, 10.0)


@given(RATIOS, st.tuples(RATIOS, RATIOS, RATIOS).map(sorted))
def test_undecided_exactly_where_the_interval_contains_the_limit(limit, interval):
    low, ratio, high = interval
    verdict = Verdict.of(limit, ratio, ratio_low=low, ratio_high=high)
    assert (verdict is UNDECIDED) == (low <= limit < high)
    assert (verdict is MET) == (high <= limit)


@given(RATIOS, st.tuples(RATIOS, RATIOS, RATIOS).map(sorted))
def test_a_prediction_is_judged_by_its_interval_where_a_latency_was_asked_for(limit, interval):
    low, ratio, high = interval
    ends = {"ratio_low": low, "ratio_high": high}
    assert Verdict.of_prediction(limit, ratio, **ends) is Verdict.of(limit, ratio, **ends)
    without = Verdict.of_prediction(None, ratio, **ends)
    assert without is (MET if ratio <= 1.0 else MISSED)


def test_exit_codes_and_json_values():
    assert [(v.exit_code, v.within_budget, v.value) for v in (MET, MISSED, UNDECIDED)] == [
        (0, True, "met"),
        (1, False, "missed"),
        (5, None, "undecided"),
    ]


def test_an_absolute_limit_becomes_a_ratio_of_the_same_measurement():
    assert latency_limit("8ms", 0.010) == pytest.approx(0.8)
    assert latency_limit("0.85x", 0.010) == 0.85
    assert latency_limit(None, 0.010) is None
    with pytest.raises(UsageError, match="limit on the latency"):
        latency_limit("8 apples", 0.010)
