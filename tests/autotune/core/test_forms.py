"""Forms and their one spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, Form, low_rank, parse_form, plan_from_json, plan_to_json

RANKS = st.integers(1, 10**6)
PRECISIONS = st.sampled_from(["native", "int8-static", "int8-dynamic", "int4-weight"])
LOW_RANK = st.builds(low_rank, RANKS, st.sampled_from(["plain", "pivoted"]), precision=PRECISIONS)
DENSES = st.builds(lambda precision: Form(precision=precision), PRECISIONS)


@given(st.one_of(LOW_RANK, DENSES))
def test_a_spelling_is_read_back(form):
    assert parse_form(str(form)) == form


def test_spellings():
    assert str(DENSE) == "dense"
    assert str(low_rank(256)) == "rank=256"
    assert str(low_rank(256, "pivoted", precision="int8-static")) == "rank=256:pivoted:int8-static"
    assert str(Form(precision="int8-static")) == "dense:int8-static"
    assert parse_form("rank=8:int8-dynamic") == Form(rank=8, precision="int8-dynamic")


@pytest.mark.parametrize(
    "text",
    ["", "rank=0", "rank=-1", "256", "rank=8:pivoted:int8:x", "dense:pivoted", "dense:pivoted:int8",
     "rank=8:", "rank=8:INT8", "sparse"],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError):
        parse_form(text)


def test_dense_is_rank_zero_and_sorts_first():
    assert sorted([low_rank(2), DENSE, low_rank(1)]) == [DENSE, low_rank(1), low_rank(2)]
    assert DENSE.is_dense and DENSE.is_unchanged
    assert Form(precision="int8-static").is_dense
    assert not Form(precision="int8-static").is_unchanged


def test_a_plan_is_read_back():
    plan = {"a": low_rank(16), "b": DENSE, "q+k+v": low_rank(8, "pivoted")}
    assert plan_from_json(plan_to_json(plan)) == plan
