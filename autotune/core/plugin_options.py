"""Options of a registered part: the arguments of its class, checked against their annotations.

An argument is annotated with bool, int, float, str or a Literal of texts, alone or with None;
`Annotated[float, Bounds(ge=0, le=1)]` adds inclusive bounds.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core.errors import UsageError

_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number"}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Inclusive limits of a number, as in `Annotated[float, Bounds(ge=0, le=1)]`."""

    ge: float | None = None
    le: float | None = None

    def hold(self, value: float) -> bool:
        """Whether `ge` ≤ value ≤ `le`; a limit that is None is not checked."""
        return (self.ge is None or value >= self.ge) and (self.le is None or value <= self.le)

    def __str__(self) -> str:
        ends = ((self.ge, "at least"), (self.le, "at most"))
        return " and ".join(f"{word} {end:g}" for end, word in ends if end is not None)


def convert_options(cls: Any, options: Mapping[str, str], *, what: str) -> dict[str, Any]:
    """The values of `options` in the types that the arguments of `cls` are annotated with.

    Raises:
        UsageError: an unknown option (the known ones are listed), a value of another type or
            outside its bounds.
    """
    known = arguments(cls)
    found = {}
    for key, text in options.items():
        if key not in known:
            listed = ", ".join(known) or "none"
            raise UsageError(f"{what}: unknown option {key!r}; known are {listed}")
        try:
            found[key] = _convert(text, known[key])
        except ValueError as error:
            raise UsageError(f"{what}: option {key} must be {error}, got {text!r}") from None
    return found


def arguments(cls: Any) -> dict[str, Any]:
    """Names of a class's options and their annotations, of those that text can express."""
    parameters = inspect.signature(cls).parameters
    try:
        hints = typing.get_type_hints(
            cls if inspect.isfunction(cls) else cls.__init__, include_extras=True
        )
    except (NameError, TypeError):
        hints = {}  # names that are imported for the type checker only
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {n: hints.get(n, Any) for n, p in parameters.items() if p.kind not in variadic}
    return {name: hint for name, hint in named.items() if _is_written(hint)}


def _is_written(hint: Any) -> bool:
    """Whether values of an annotation can be written as text; others are set in Python only."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_written(typing.get_args(hint)[0])
    if origin in (types.UnionType, typing.Union):
        return any(map(_is_written, set(typing.get_args(hint)) - {types.NoneType}))
    return origin is typing.Literal or hint in (Any, str, *_WORDS)


def _convert(text: str, hint: Any) -> Any:
    """`text` as a value of the annotation.

    Raises:
        ValueError: it is none; the message states what it must be.
    """
    if typing.get_origin(hint) is typing.Annotated:
        kind, *extras = typing.get_args(hint)
        return _bounded(text, kind, limits=[e for e in extras if isinstance(e, Bounds)])
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
        if text not in allowed:
            raise ValueError(f"one of {', '.join(map(str, allowed))}")
        return text
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _first(text, [each for each in typing.get_args(hint) if _is_written(each)])
    return _plain(text, hint)


def _bounded(text: str, kind: Any, *, limits: list[Bounds]) -> Any:
    """`text` in a type, inside its bounds; the message of the error holds both."""
    inside = " and ".join(map(str, limits))
    try:
        value = _convert(text, kind)
    except ValueError as error:
        raise ValueError(f"{error}, {inside}" if inside else str(error)) from None
    if not all(each.hold(value) for each in limits):
        raise ValueError(f"{_WORDS.get(kind, 'a value')}, {inside}")
    return value


def _first(text: str, kinds: list[Any]) -> Any:
    """`text` in the first of several types that it can be read as."""
    for kind in kinds[:-1]:
        try:
            return _convert(text, kind)
        except ValueError:
            continue
    return _convert(text, kinds[-1])


def _plain(text: str, kind: Any) -> Any:
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(_WORDS[bool])
        return text == "true"
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(_WORDS[kind]) from None
        if not math.isfinite(value):
            raise ValueError(_WORDS[kind])
        return value
    return text if kind is str else _guess(text)


def _guess(text: str) -> Any:
    """Without an annotation: a truth value or a finite number where it looks like one."""
    for kind in (bool, int, float):
        try:
            return _plain(text, kind)
        except ValueError:
            continue
    return text
