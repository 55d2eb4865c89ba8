"""An option declared once: its checks, JSON and error messages."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.core.errors import (
    CalibrationError,
    MeasurementError,
    QuantityError,
    UsageError,
    fill_names,
    option_name,
)
from autotune.core.option_names import about, option_names, spell
from autotune.core.options import OptionError, check_options, entries, option, same
from autotune.core.options_json import (
    at,
    from_json,
    merged,
    nested_from_flat,
    place,
    to_json,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    PATH = "inner"
    count: int = option(3, flag="--count", ge=0, le=10, help="A count.")
    share: float = option(0.5, flag="--share", ge=0, help="A share.")
    name: str | None = option(flag="--name", choices=("a", "b"), help="A name.")
    later: int = option(flag="--later", by_effort=(1, 2, 3), help="Filled in later.")
    names: tuple[str, ...] = option((), flag="--names", help="Names.")

    def __post_init__(self):
        check_options(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    switch: bool = option(False, flag="--switch", help="A switch.")
    secret: str | None = option(secret=True, help="Never written.")
    place: str = option("here", flag="--place", local=True, help="Of this machine.")

    def __post_init__(self):
        check_options(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": -1}, "inner.count must be 0 to 10, got -1"),
        ({"count": 11}, "inner.count must be 0 to 10, got 11"),
        ({"count": 1.5}, "inner.count must be a whole number, got 1.5"),
        ({"count": True}, "inner.count must be a whole number, got True"),
        ({"count": "3"}, "inner.count must be a whole number, got '3'"),
        ({"count": None}, "inner.count must be a whole number, got None"),
        ({"share": math.nan}, "inner.share must be a finite number, got nan"),
        ({"share": math.inf}, "inner.share must be a finite number, got inf"),
        ({"share": -math.inf}, "inner.share must be 0 or more, got -inf"),
        ({"share": False}, "inner.share must be a number, got False"),
        ({"name": "c"}, "inner.name must be one of a, b, got 'c'"),
        ({"name": 1}, "inner.name must be text, got 1"),
        ({"names": "x"}, "inner.names must be a list, got 'x'"),
        ({"names": [1]}, "inner.names must be a list, got [1]"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_with_the_option_rule_and_value(values, message):
    for make in (lambda: Inner(**values), lambda: from_json(Outer, {"inner": values})):
        with pytest.raises(OptionError) as caught:
            make()
        assert str(caught.value) == message
        assert caught.value.field == f"inner.{next(iter(values))}"
        assert isinstance(caught.value, UsageError)


def test_names_are_spelled_as_the_caller_wrote_them():
    with pytest.raises(OptionError) as caught:
        Inner(count=-1)
    error = caught.value
    assert str(spell(error, "cli")) == "--count must be 0 to 10, got -1"
    assert str(spell(error, "http")) == "spec.inner.count must be 0 to 10, got -1"
    assert str(spell(error, "flat")) == "count must be 0 to 10, got -1"
    assert str(spell(error, "api")) == "inner.count must be 0 to 10, got -1"
    several = OptionError("", "{inner.count} and {switch} exclude each other", schema=Outer)
    assert str(spell(several, "cli")) == "--count and --switch exclude each other"


def test_values_are_converted_to_their_types():
    made = from_json(Outer, {"inner": {"share": 1, "names": ["x", "y"]}})
    assert type(made.inner.share) is float
    assert made.inner.names == ("x", "y")
    assert made.inner.later is None  # whoever knows the effort fills it in


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"colour": 1}, "unknown option 'colour'; known are inner, place, switch"),
        ({"inner": {"colour": 1}}, "unknown option 'inner.colour'; known are count, later"),
        ({"inner": 5}, "inner must be an object, got 5"),
        ([], "a request must be an object"),
    ],
)
def test_json_of_another_form_is_refused(values, said):
    with pytest.raises(OptionError, match=said):
        from_json(Outer, values)


def test_json_leaves_out_secrets_and_on_request_what_is_local():
    outer = Outer(secret="x", place="there")
    assert "secret" not in to_json(outer)
    assert to_json(outer)["place"] == "there"
    assert "place" not in to_json(outer, portable=True)


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(0, 10),
    share=st.floats(0, 1e300),
    name=st.sampled_from(["a", "b", None]),
    names=st.lists(st.text(), max_size=3),
    switch=st.booleans(),
)
def test_json_and_back_is_the_same(count, share, name, names, switch):
    inner = Inner(count=count, share=share, name=name, names=tuple(names))
    made = Outer(inner=inner, switch=switch)
    assert from_json(Outer, to_json(made)) == made


def test_flat_names_find_their_place():
    flat = {"count": 4, "switch": True, "name": None, "names": []}
    assert nested_from_flat(Outer, flat) == {"inner": {"count": 4}, "switch": True}
    with pytest.raises(OptionError, match="unknown option 'colour'"):
        nested_from_flat(Outer, {"colour": 1})


def test_nested_values_are_placed_found_and_merged():
    found = {}
    place(found, "a.b.c", value=1)
    assert found == {"a": {"b": {"c": 1}}}
    assert (at(found, "a.b.c"), at(found, "a.x", default=7), at(found, "a.b.c.d")) == (1, 7, None)
    first = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(first, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}
    assert first == {"a": {"b": 1, "c": 2}, "d": 3}


def test_every_schema_of_a_request_knows_its_place():
    from autotune.core.options import nested
    from autotune.tuning.request import TuneRequest

    for name, schema in nested(TuneRequest).items():
        assert name == schema.PATH
    flags = [entry.option.flag for entry in entries(TuneRequest) if entry.option.flag]
    flats = [entry.option.flat for entry in entries(TuneRequest) if entry.option.flat]
    assert len(flags) == len(set(flags))
    assert len(flats) == len(set(flats))
    for entry in entries(TuneRequest):
        assert entry.option.help.endswith((".", "…")), entry.path
        assert entry.option.le is None or entry.option.ge is not None, entry.path


def test_a_limit_that_does_not_parse_names_the_option_and_stays_a_quantity_error():
    from autotune.core.types import Budget

    with pytest.raises(QuantityError) as caught:
        Budget(flops="20 parsec")
    assert isinstance(caught.value, OptionError)
    assert str(spell(caught.value, "cli")).startswith("--flops-budget cannot be read: '20 parsec'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alone:
    """A command of its own that shares an option under another name."""

    several: tuple[int, ...] = same(Inner, "count", default=(), flat="several")
    needed: int = option(flag="--needed", required=True, ge=1, help="Needed.")

    def __post_init__(self):
        check_options(self)


def test_an_error_of_any_kind_names_options_by_their_path_until_it_is_spelled():
    error = MeasurementError(f"raise {option_name('inner.count')} or {option_name('keep_apart')}")
    assert str(error) == "raise inner.count or keep_apart"
    assert str(spell(error, "cli", Outer)) == "raise --count or --keep-apart"
    assert str(spell(error, "flat", Outer)) == "raise count or keep_apart"
    assert str(spell(error, "http", Outer)) == "raise spec.inner.count or keep_apart"
    assert str(spell(error, "http", Alone)) == "raise spec.several or keep_apart"
    assert fill_names(error.template, option_names("cli", Alone)) == str(spell(error, "cli", Outer))


def test_what_a_value_holds_is_not_taken_for_an_option():
    error = UsageError("model '{inner.count}' does not exist")
    assert str(spell(error, "cli", Outer)) == "model '{inner.count}' does not exist"


def test_a_part_is_spelled_as_the_command_has_it_and_a_command_as_itself():
    with pytest.raises(OptionError) as caught:
        Inner(count=-1)
    assert str(spell(caught.value, "http", Alone)) == "spec.several must be 0 to 10, got -1"
    with pytest.raises(OptionError) as caught:
        Alone(several=(-1,), needed=1)
    assert str(spell(caught.value, "http", Outer)) == "spec.several must be 0 to 10, got -1"


def test_of_several_values_the_one_that_breaks_the_rule_is_named():
    with pytest.raises(OptionError, match=r"^several must be 0 to 10, got 11$"):
        Alone(several=(1, 11, -1), needed=1)
    with pytest.raises(OptionError, match=r"^several must be 0 to 10, got 11$"):
        from_json(Alone, {"several": [1, 11], "needed": 1})


def test_a_refusal_that_names_no_option_gets_its_name_in_front_once():
    with pytest.raises(CalibrationError) as caught, about("inner.name"):
        raise CalibrationError("unknown name 'x'")
    assert str(spell(caught.value, "cli", Outer)) == "--name: unknown name 'x'"
    with pytest.raises(UsageError) as named, about("inner.name"):
        raise UsageError(f"{option_name('switch')} must be off")
    assert str(named.value) == "switch must be off"


@pytest.mark.parametrize("values", [{}, {"needed": None}])
def test_a_required_option_must_be_given(values):
    with pytest.raises(OptionError, match=r"^needed must be given$"):
        from_json(Alone, values)
