"""Records as JSON: what is written is read back, and everything else is refused with its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.errors import UsageError
from autotune.core.forms import STRUCTURES, Form
from autotune.results.codec import Record, json_key
from autotune.results.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: int
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer(Record):
    derived = ("rank",)
    form: Form
    verdict: Verdict
    source: Literal["measured", "predicted"]
    maybe: float | None
    flag: bool
    inner: tuple[Inner, ...] = field(metadata=json_key("parts"))
    named: Mapping[str, Inner]

    @property
    def rank(self) -> int | None:
        return self.form.rank or None


FORMS = st.builds(
    lambda rank, structure, precision: Form(
        rank=rank, structure=structure if rank else "plain", precision=precision
    ),
    st.integers(0, 5000),
    st.sampled_from(STRUCTURES),
    st.sampled_from(["native", "int8-static", "fp8"]),
)
# onnxruntime may have switched subnormal numbers off in this process.
FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
INNERS = st.builds(Inner, count=st.integers(0, 2**60), share=FLOATS)
OUTERS = st.builds(
    Outer,
    form=FORMS,
    verdict=st.sampled_from(list(Verdict)),
    source=st.sampled_from(["measured", "predicted"]),
    maybe=st.none() | FLOATS,
    flag=st.booleans(),
    inner=st.lists(INNERS, max_size=3).map(tuple),
    named=st.dictionaries(st.text(max_size=5), INNERS, max_size=3),
)
GIVEN = Outer(
    form=Form(rank=8),
    verdict=Verdict.MET,
    source="measured",
    maybe=None,
    flag=True,
    inner=(Inner(count=1),),
    named={"a": Inner(count=2)},
)


@given(OUTERS)
def test_what_is_written_is_read_back(record):
    assert Outer.from_json(record.to_json()) == record


def test_json_has_plain_values_and_the_derived_ones():
    assert GIVEN.to_json() == {
        "form": "rank=8",
        "rank": 8,
        "verdict": "met",
        "source": "measured",
        "maybe": None,
        "flag": True,
        "parts": [{"count": 1, "share": 0.5}],
        "named": {"a": {"count": 2, "share": 0.5}},
    }


def test_a_whole_number_is_a_float_and_a_default_may_be_missing():
    values = {**GIVEN.to_json(), "maybe": 2, "parts": [{"count": 3}]}
    found = Outer.from_json(values)
    assert (found.maybe, type(found.maybe)) == (2.0, float)
    assert found.inner == (Inner(count=3, share=0.5),)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"extra": 1}, "file: extra: unknown key; known are flag, form"),
        ({"parts": [{"count": 1}, {"count": "1"}]}, r"parts\[1\].count must be a whole number"),
        ({"parts": [{"count": True}]}, r"parts\[0\].count must be a whole number"),
        ({"parts": [{"count": -1}]}, r"parts\[0\].count must be at least 0, got '-1'"),
        ({"parts": [{}]}, r"parts\[0\].count: the key is missing"),
        ({"parts": {}}, "parts must be a list"),
        ({"named": []}, "named must be an object"),
        ({"named": {"a": {"count": 1, "more": 2}}}, "named.a.more: unknown key"),
        ({"maybe": float("nan")}, "maybe must be a finite number"),
        ({"maybe": "0.5"}, "maybe must be a finite number"),
        ({"flag": 1}, "flag must be true or false"),
        ({"verdict": "perhaps"}, "verdict must be one of met, missed, undecided"),
        ({"source": "guessed"}, "source must be one of measured, predicted"),
        ({"form": "rank=x"}, "form: 'rank=x' is not a form"),
        ({"form": None}, "form: the value must be a string"),
        ({"rank": 9}, "rank: 9 contradicts the other values, which give 8"),
    ],
)
def test_another_value_is_refused_with_its_place(change, says):
    with pytest.raises(UsageError, match=says):
        Outer.from_json({**GIVEN.to_json(), **change}, "file")


@pytest.mark.parametrize("key", sorted(GIVEN.to_json()))
def test_a_missing_key_is_refused(key):
    values = GIVEN.to_json()
    del values[key]
    with pytest.raises(UsageError, match=f"file: {key}: the key is missing"):
        Outer.from_json(values, "file")


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_only_an_object_is_a_record(values):
    with pytest.raises(UsageError, match="must be an object"):
        Outer.from_json(values, "file")
