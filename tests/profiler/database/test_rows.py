"""Rows of the latency database and of exported files, and the kinds that stand in them."""

import pytest

from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, Form, low_rank
from autotune.profiler.database.rows import COLUMNS, as_row, from_row, kind_of, parse_kind
from tests.profiler.points import point

FORMS = [
    DENSE,
    Form(precision="int8-static"),
    low_rank(16),
    low_rank(16, "pivoted"),
    low_rank(16, "pivoted", precision="int8-static"),
]


@pytest.mark.parametrize("parts", [(), (128, 128, 128)])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_row_and_back(form, parts):
    for row in (point(form=form, parts=parts), point(form=form, parts=parts, error="crash")):
        values = as_row(row)
        assert list(values) == list(COLUMNS)
        assert from_row(values) == row
    assert parse_kind(kind_of(row.shape), form.rank) == (parts, form)


def test_kinds_of_plain_layers_are_those_of_older_databases():
    assert kind_of(point(16).shape) == "linear"
    assert kind_of(point(16, parts=(512, 128, 128)).shape) == "shared:512+128+128"
    shape = point(form=low_rank(16, precision="int8-static"), parts=(512, 128)).shape
    assert kind_of(shape) == "shared:512+128:int8-static"


@pytest.mark.parametrize(
    ("kind", "rank"),
    [
        ("", 16),
        ("conv", 16),
        ("linear:", 0),
        ("linear:512+128", 16),
        ("shared", 16),
        ("shared:pivoted", 16),
        ("shared:512+x", 16),
        ("linear:pivoted", 0),
        ("linear:int8:pivoted", 16),
    ],
)
def test_other_kinds_are_refused(kind, rank):
    with pytest.raises(UsageError, match="is no kind of layer"):
        parse_kind(kind, rank)


def test_a_row_without_an_error_needs_all_its_times():
    values = as_row(point(16))
    with pytest.raises(UsageError, match="neither an error nor a ratio_low"):
        from_row({**values, "ratio_low": None})
