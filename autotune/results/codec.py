"""Records as JSON and back: frozen dataclasses of plain values, forms, enums and other records.

Reading is strict. A key that the record does not have, a missing key and a value of another type
are errors that name the place, such as `sites[3].in_features`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from autotune.core.errors import UsageError
from autotune.core.forms import Form, parse_form

_KEY = "json_key"
# Names carry their units; what they count or measure is never negative.
_QUANTITY = re.compile(
    r"_s$|seconds$|_bytes$|_features$|ratio|(^|_)(count|windows|total|settled|cores)$"
)
# What no plan changes is less than nothing where layers overlap.
_SIGNED = frozenset({"rest_latency_s"})
_PLAIN = {str: "a string", int: "a whole number", float: "a finite number", bool: "true or false"}


def json_key(name: str) -> Any:
    """Metadata of a field whose JSON key differs from its name: `field(metadata=json_key("a"))`."""
    return {_KEY: name}


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of the records that are stored as JSON.

    `derived` names properties that are computed from the fields and written beside them for other
    readers of the JSON. They are checked on reading and not stored in the record.
    """

    derived: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Refuse values that contradict each other, when the record is read.

        Raises:
            UsageError: names the field.
        """

    def to_json(self) -> dict[str, Any]:
        """All fields and derived properties as plain JSON values."""
        return encode(self)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: object, where: str = "") -> Self:
        """Build the record from the output of `to_json`.

        Args:
            values: An object as `json.loads` returns it.
            where: What is read, such as the path of the file; error messages begin with it.

        Raises:
            UsageError: unknown or missing keys, a value of another type, or values that contradict
                each other.
        """
        with _at(where):
            return decode(cls, values)  # type: ignore[no-any-return]


def encode(value: Any) -> Any:
    """`value` as plain JSON values: objects, lists, strings, numbers, booleans and None."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Form):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = {_key(f): f.name for f in dataclasses.fields(value)}
        names |= {name: name for name in _derived(type(value))}
        return {key: encode(getattr(value, name)) for key, name in names.items()}
    if isinstance(value, Mapping):
        return {str(key): encode(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [encode(one) for one in value]
    return value


def decode(kind: Any, value: Any, *, where: str = "") -> Any:
    """The value of type `kind` that `encode` turned into `value`, at the place `where`.

    Raises:
        UsageError: `value` does not have that type.
    """
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _optional(kind, value, where=where)
    if origin is tuple:
        (item, _) = typing.get_args(kind)
        items = _typed(list, value, where=where, wanted="a list")
        return tuple(decode(item, one, where=f"{where}[{i}]") for i, one in enumerate(items))
    if origin is typing.Literal:
        return _one_of(typing.get_args(kind), value, where=where)
    if origin is not None:  # Mapping[str, X], the only other generic type of records
        (_, item) = typing.get_args(kind)
        pairs = _typed(dict, value, where=where, wanted="an object")
        return {key: decode(item, one, where=_inside(where, key)) for key, one in pairs.items()}
    if kind is Form:
        with _at(where):
            return parse_form(_typed(str, value, where="", wanted="a string"))
    if issubclass(kind, enum.Enum):
        return kind(_one_of([one.value for one in kind], value, where=where))
    if dataclasses.is_dataclass(kind):
        return _decode_record(
            kind, _typed(dict, value, where=where, wanted="an object"), where=where
        )
    return _plain(kind, value, where=where)


def _decode_record(kind: Any, values: Mapping[str, Any], *, where: str) -> Any:
    fields = {_key(field): field for field in dataclasses.fields(kind)}
    hints = _hints(kind)
    derived = _derived(kind)
    unknown = sorted(set(values) - set(fields) - set(derived))
    if unknown:
        known = ", ".join(sorted({*fields, *derived}))
        raise UsageError(f"{_inside(where, unknown[0])}: unknown key; known are {known}")
    required = {key for key, field in fields.items() if _is_required(field)} | set(derived)
    missing = sorted(required - set(values))
    if missing:
        raise UsageError(f"{_inside(where, missing[0])}: the key is missing")
    found = {
        field.name: decode(hints[field.name], values[key], where=_inside(where, key))
        for key, field in fields.items()
        if key in values
    }
    _check_numbers(found, where=where)
    with _at(where):
        record = kind(**found)
    for name in derived:
        expected = encode(getattr(record, name))
        if values[name] != expected:
            raise UsageError(
                f"{_inside(where, name)}: {values[name]!r} contradicts the other values, which "
                f"give {expected!r}"
            )
    if isinstance(record, Record):
        with _at(where):
            record.check()
    return record


def _check_numbers(values: Mapping[str, Any], *, where: str) -> None:
    """Refuse a quantity below zero and an interval whose ends are exchanged, by the fields' names.

    Raises:
        UsageError: names the field.
    """
    numbers = {name: one for name, one in values.items() if isinstance(one, int | float)}
    for name, one in numbers.items():
        if _QUANTITY.search(name) and name not in _SIGNED and one < 0:
            raise _mismatch(one, _inside(where, name), wanted="at least 0")
        high = numbers.get(name.replace("_low", "_high"), one)
        if one > high:
            raise _mismatch(one, _inside(where, name), wanted=f"at most the upper end {high}")


def _optional(kind: Any, value: Any, *, where: str) -> Any:
    (inner,) = (one for one in typing.get_args(kind) if one is not types.NoneType)
    return None if value is None else decode(inner, value, where=where)


def _plain(kind: type, value: Any, *, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _mismatch(value, where, wanted=_PLAIN[kind]) from None
    if kind in (int, float) and isinstance(value, bool):
        raise _mismatch(value, where, wanted=_PLAIN[kind])
    found = _typed(kind, value, where=where, wanted=_PLAIN[kind])
    if kind is float and not math.isfinite(found):
        raise _mismatch(value, where, wanted=_PLAIN[kind])
    return found


def _typed(kind: type, value: Any, *, where: str, wanted: str) -> Any:
    if not isinstance(value, kind):
        raise _mismatch(value, where, wanted=wanted)
    return value


def _one_of(allowed: Any, value: Any, *, where: str) -> Any:
    if value not in tuple(allowed):
        raise _mismatch(value, where, wanted=f"one of {', '.join(map(str, allowed))}")
    return value


def _mismatch(value: Any, where: str, *, wanted: str) -> UsageError:
    return UsageError(f"{where or 'the value'} must be {wanted}, got {str(value)[:80]!r}")


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Prefix the message of a `UsageError` with the place where it was raised."""
    try:
        yield
    except UsageError as error:
        if not where:
            raise
        raise UsageError(f"{where}: {error}") from error


def _inside(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get(_KEY, field.name))


def _derived(kind: type) -> tuple[str, ...]:
    return kind.derived if issubclass(kind, Record) else ()


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
