"""An option of the program, declared once as a field of a frozen dataclass.

`option(...)` declares it: its default, bounds, choices, flag and help. Everything else is derived:
the checks of a value here, JSON in `autotune.core.options_json`, the command line in
`autotune.cli.schema`, the fields of the HTTP interface in `autotune.service.schema`, and the
reference page `docs/options.md` in `autotune.cli.reference`.

A schema is a dataclass whose fields are options or further schemas; a nested schema names its place
in the whole by the class attribute `PATH`, such as `search`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autotune.core.errors import UsageError, option_name

Style = Literal["api", "cli", "http", "flat"]
EFFORTS = ("quick", "normal", "thorough")
_KEY = "autotune.option"
_IN_RANGE = 1_000_000
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of an option besides its name, type and default.

    `flag` and `off` are spelled as on the command line (`--joint`, `--no-joint`); `flat` is the
    name as a keyword of `autotune.tune` and as a field of older HTTP requests. Bounds are
    inclusive; a lower one comes with every upper one. `choices` are the allowed values; for an
    option that names a registered part, `part` is what the part is called, `choices` lists the
    names that are known when it is asked, and `configurable` says that `NAME:key=value` sets the
    part's own options. `by_effort` are the defaults at each of `EFFORTS`. A `local` option
    belongs to the machine that runs the tuning, so a service sets it itself; a `secret` one is
    never written down; a `required` one has no default. `complete` lists values for the shell to
    offer where others are possible. `origin` is the path of the option that this one is the `same`
    as.
    """

    flag: str
    help: str
    group: str = ""
    flat: str = ""
    short: str | None = None
    off: str | None = None
    metavar: str | None = None
    ge: float | None = None
    le: float | None = None
    choices: Callable[[], Iterable[str]] | tuple[str, ...] = ()
    part: str | None = None
    configurable: bool = False
    by_effort: tuple[Any, ...] | None = None
    default_text: str | None = None
    parse: Callable[[str], Any] | None = None
    env: str | None = None
    common: bool = False
    local: bool = False
    secret: bool = False
    required: bool = False
    complete: Callable[[], Iterable[str]] | None = None
    origin: str = ""

    def names(self) -> tuple[str, ...]:
        """The allowed values, or the names of parts that are known now."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    @property
    def bounds(self) -> str:
        """The allowed numbers: `0 or more`, `1 to 10`; empty when any will do.

        A bound of a million or more only keeps numbers in range, and is not mentioned.
        """
        if self.ge is None:
            return ""
        if self.le is None or self.le >= _IN_RANGE:
            return f"{self.ge:g} or more"
        return f"{self.ge:g} to {self.le:g}"


def option(
    default: Any = None,
    *,
    flag: str = "",
    help: str = "",  # noqa: A002 (the word that click uses)
    flat: str | None = None,
    default_factory: Callable[[], Any] | None = None,
    **more: Any,
) -> Any:
    """A field of a schema; see `Option` for the arguments.

    None as the default of a field whose type excludes None means that it is filled in when the
    value is not given, by effort or from other fields. An option without a flag is reachable from
    Python and JSON only.
    """
    name = flat if flat is not None else flag.lstrip("-").replace("-", "_")
    metadata = {_KEY: Option(flag=flag, help=help, flat=name, **more)}
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An option with its place in a schema: `path` is `search.trials`, `kind` its plain type.

    `item` is the type of the values of an option that may be given several times (`kind` tuple).
    """

    path: str
    name: str
    kind: type
    item: type
    optional: bool
    default: Any
    option: Option

    def spelled(self, style: Style) -> str:
        """The name as a caller writes it in the Python API, on the command line or over HTTP."""
        if style == "cli":
            return self.option.flag or self.path
        if style == "flat":
            return self.option.flat or self.path
        return f"spec.{self.path}" if style == "http" else self.path


class OptionError(UsageError):
    """The value of an option breaks a rule.

    Attributes:
        field: Path of the option in its schema, such as `search.trials`.
        rule: What must hold, such as `must be 0 or more`.
        value: What was given; `...` where the rule is not about one value.
        schema: The schema that the option is of.

    In `rule`, `{search.trials}` stands for an option by its path.
    """

    def __init__(self, field: str, rule: str, *, value: Any = ..., schema: type) -> None:
        self.field, self.rule, self.value, self.schema = field, rule, value, schema
        text = f"{{{field}}} {rule}" if field else rule
        for entry in entries(schema):
            text = text.replace(f"{{{entry.path}}}", option_name(entry.path))
        super().__init__(text if value is ... else f"{text}, got {_shown(value)}")


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)[:200]


@functools.cache
def entries(schema: Callable[..., Any]) -> tuple[Entry, ...]:
    """Every option of a schema and of the schemas inside it, in the order of their fields."""
    return tuple(_walk(typing.cast(type, schema), getattr(schema, "PATH", "")))


def _walk(schema: type, path: str) -> Iterator[Entry]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        below = f"{path}.{field.name}".lstrip(".")
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _walk(typing.cast(type, hints[field.name]), below)
        elif _KEY in field.metadata:
            kind, item, optional = _plain(hints[field.name])
            has_factory = field.default_factory is not dataclasses.MISSING
            default = field.default_factory if has_factory else field.default
            yield Entry(
                path=below,
                name=field.name,
                kind=kind,
                item=item,
                optional=optional,
                default=default,
                option=field.metadata[_KEY],
            )


def nested(schema: type) -> Mapping[str, type]:
    """The schemas that a schema is made of, by field."""
    return _nested(typing.cast(Any, schema))


@functools.cache
def _nested(schema: Callable[..., Any]) -> Mapping[str, type]:
    hints = typing.get_type_hints(schema)
    found = {
        field.name: hints[field.name]
        for field in dataclasses.fields(typing.cast(type, schema))
        if dataclasses.is_dataclass(hints[field.name])
    }
    return types.MappingProxyType(found)


def _plain(hint: Any) -> tuple[type, type, bool]:
    """Type, type of the items and whether None is allowed: `int | None` is (int, int, True)."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    inner = typing.get_args(hint) if union else (hint,)
    some = [each for each in inner if each is not type(None)]
    kind = typing.get_origin(some[-1]) or some[-1]
    item = typing.get_args(some[-1])[0] if kind is tuple else kind
    return kind, item, len(some) < len(inner)


def same(schema: type, name: str, *, note: str = "", default: Any = ..., **changed: Any) -> Any:
    """A field like that of another schema, for commands that share an option.

    `note` is put before its help; `default` and `changed`, attributes of `Option`, differ.
    """
    field = next(each for each in dataclasses.fields(schema) if each.name == name)
    found: Option = field.metadata[_KEY]
    origin = found.origin or f"{getattr(schema, 'PATH', '')}.{name}".lstrip(".")
    more = {"help": f"{note}{found.help}", "common": False, "origin": origin, **changed}
    metadata = {_KEY: dataclasses.replace(found, **more)}
    if default is ... and field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, metadata=metadata)
    default = field.default if default is ... else default
    return dataclasses.field(default=default, metadata=metadata)


def check_options(record: Any) -> None:
    """Check and convert every option of a schema's instance; called by its `__post_init__`.

    Lists become tuples and whole numbers become floats where the type asks for it.

    Raises:
        OptionError: a value of another type, outside its bounds or not among its choices.
    """
    schema: type = type(record)
    for entry in _own_entries(typing.cast(Any, schema)):
        value = getattr(record, entry.name)
        checked = check_value(entry, value, schema=schema)
        if checked is not value:
            object.__setattr__(record, entry.name, checked)


@functools.cache
def _own_entries(schema: Callable[..., Any]) -> tuple[Entry, ...]:
    """The options of a schema itself, without those of the schemas in it."""
    above = f"{getattr(schema, 'PATH', '')}."
    found = entries(typing.cast(type, schema))
    return tuple(entry for entry in found if "." not in entry.path.removeprefix(above))


def check_value(entry: Entry, value: Any, *, schema: type) -> Any:
    """`value`, converted to the option's type.

    Raises:
        OptionError: it has another type, is outside the bounds or not among the choices.
    """
    if value is None and entry.option.required:
        raise OptionError(entry.path, "must be given", schema=schema)
    if value is None and (entry.optional or entry.default is None):
        return None
    rule = broken_rule(entry, value)
    if rule:
        raise OptionError(entry.path, rule, value=_offending(entry, value), schema=schema)
    return None if value is None else _converted(entry, value)


def broken_rule(entry: Entry, value: Any) -> str:
    """The rule of type, bounds or choices that a value breaks; empty if none."""
    option, value = entry.option, None if value is None else _converted(entry, value)
    if value is None:
        return f"must be {_KINDS.get(entry.kind, 'text')}"
    if type(value) is int and option.le is not None and value > option.le >= _IN_RANGE:
        return f"must be at most {option.le:,}"
    if any(_is_outside(option, one) for one in (value if isinstance(value, tuple) else (value,))):
        return f"must be {option.bounds}"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if option.choices and option.part is None and value not in option.names():
        return f"must be one of {', '.join(option.names())}"
    return ""


def _is_outside(option: Option, number: Any) -> bool:
    too_low = option.ge is not None and number < option.ge
    return too_low or (option.le is not None and number > option.le)


def _offending(entry: Entry, value: Any) -> Any:
    """Of a list, the first item outside the bounds; else the value as it was given."""
    items = _converted(entry, value) if entry.kind is tuple else None
    return next((one for one in items or () if _is_outside(entry.option, one)), value)


def _converted(entry: Entry, value: Any) -> Any:
    """The value in the option's type; None when it has another one."""
    if entry.kind is tuple:
        whole = isinstance(value, list | tuple)
        whole = whole and all(type(each) is entry.item for each in value)
        return tuple(value) if whole else None
    if entry.kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number else None
    if entry.kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if entry.kind is bool:
        return value if isinstance(value, bool) else None
    if not isinstance(value, str | Path):
        return None
    if entry.option.parse is not None:
        return entry.option.parse(str(value))
    return Path(value) if entry.kind is Path else str(value)


def by_effort(schema: type, effort: str) -> Mapping[str, Any]:
    """The defaults that `effort` decides, by path."""
    at = EFFORTS.index(effort)
    return {e.path: e.option.by_effort[at] for e in entries(schema) if e.option.by_effort}
