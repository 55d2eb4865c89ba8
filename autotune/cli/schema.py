"""Command-line options derived from schemas (`autotune.core.options`), and how help shows them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from autotune.core.errors import AutotuneError
from autotune.core.options import Entry, entries
from autotune.core.options_json import Nested, from_json, nested_from_flat

COMMON = "Options that most users need"
_LAST = "Other options"


class PartName(click.ParamType[str]):
    """`NAME` or `NAME:key=value` of a registered part; names are listed when they are needed."""

    def __init__(self, entry: Entry) -> None:
        self.name = str(entry.option.part)
        self._entry = entry

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text unchanged: the name is checked with the whole request."""
        del param, ctx
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The known names, without importing what they name."""
        del ctx, param
        return [CompletionItem(n) for n in self._entry.option.names() if n.startswith(incomplete)]


class Suggested(click.ParamType[str]):
    """A text for which the shell offers some values; they are listed when they are needed."""

    name = "text"

    def __init__(self, values: Callable[[], Iterable[str]]) -> None:
        self._values = values

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The values that begin with what is there; none if they cannot be listed."""
        del ctx, param
        with contextlib.suppress(AutotuneError):
            return [CompletionItem(each) for each in self._values() if each.startswith(incomplete)]
        return []


class Parsed(click.ParamType[Any]):
    """The value that an option's own function makes of the text."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text parsed by the option's `parse` function."""
        del param, ctx
        return self._parse(str(value))


class SchemaOption(click.Option):
    """A click option made from an entry of a schema."""

    def __init__(self, entry: Entry, **more: Any) -> None:
        self.entry = entry
        declared = [each for each in (_flag(entry), entry.option.short) if each]
        super().__init__([*declared, entry.option.flat], **more)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The help text with what is derived: names, bounds and default."""
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], described(self.entry))


def described(entry: Entry) -> str:
    """Help, names, bounds and default of an option in one line."""
    option, text = entry.option, entry.option.help
    if option.part is not None:
        more = "; NAME:key=value sets its options" if option.configurable else ""
        text += f" One of {', '.join(option.names())}{more}."
    notes = ["required"] if option.required else []
    notes += [option.bounds] if option.bounds else []
    if entry.kind is tuple:
        notes.append("repeatable")
    default = default_text(entry)
    if default:
        notes.append(f"default: {default}")
    return f"{text} [{'; '.join(notes)}]" if notes else text


def default_value(entry: Entry) -> Any:
    """The value of an option that is not given, at normal effort; None where it depends."""
    if entry.kind is tuple:
        return list(entry.default)
    if entry.option.by_effort is not None:
        return entry.option.by_effort[1]
    return None if callable(entry.default) else entry.default


def default_text(entry: Entry) -> str:
    """The default in words; empty where an option is off or unset unless given."""
    option = entry.option
    if option.default_text is not None:
        return option.default_text
    if option.by_effort is not None:
        quick, normal, thorough = option.by_effort
        return f"{normal} (quick: {quick}, thorough: {thorough})"
    if entry.kind is bool:
        return (option.flag if entry.default else option.off or "").lstrip("-")
    return "" if entry.default is None or entry.default == () else str(entry.default)


def _flag(entry: Entry) -> str:
    off = entry.option.off
    return f"{entry.option.flag}/{off}" if off else entry.option.flag


def click_option(entry: Entry, *, filled: bool = False) -> SchemaOption:
    """The click option of a schema's entry.

    Its value is None where it was not given; with `filled` it is the entry's default.
    """
    option = entry.option
    more: dict[str, Any] = {"help": option.help, "metavar": option.metavar, "envvar": option.env}
    more["required"] = option.required
    if entry.kind is bool:
        more |= {"is_flag": True, "metavar": None, "type": bool}
    elif entry.kind is tuple:
        more |= {"multiple": True, "type": entry.item}
    else:
        more["type"] = _click_type(entry)
    default = None
    if filled and entry.kind is not tuple:
        default = entry.default
    return SchemaOption(entry, default=default, **more)


def _click_type(entry: Entry) -> Any:
    option = entry.option
    if option.part is not None:
        return PartName(entry)
    if option.choices:
        return click.Choice(option.names())
    if option.complete is not None:
        return Suggested(option.complete)
    if option.parse is not None:
        return Parsed(option.parse)
    if entry.kind in (int, float):
        return entry.kind
    return click.Path() if option.metavar in ("FILE", "FOLDER") else str


def schema_options(
    schema: type, *, filled: bool = False, leave_out: Callable[[Entry], bool] | None = None
) -> Callable[[Any], Any]:
    """A decorator that gives a command the options of a schema, by their flat names."""
    chosen = [e for e in entries(schema) if e.option.flag and not (leave_out and leave_out(e))]

    def decorate(command: Any) -> Any:
        made = [click_option(entry, filled=filled) for entry in chosen]
        if isinstance(command, click.Command):
            command.params += made
        else:  # click reads the list backwards, as decorators are applied from the inside
            command.__click_params__ = [*getattr(command, "__click_params__", []), *reversed(made)]
        return command

    return decorate


def given(schema: type, options: Mapping[str, Any]) -> Nested:
    """Nested JSON of the options that were given, from a command's values by flat name."""
    known = {entry.option.flat for entry in entries(schema)}
    return nested_from_flat(schema, {k: v for k, v in options.items() if k in known})


def values(schema: type, options: Mapping[str, Any]) -> Any:
    """The instance of a flat schema from a command's values.

    Raises:
        OptionError: a value that cannot be used.
    """
    return from_json(schema, given(schema, options))


class GroupedCommand(click.Command):
    """A command whose help shows common options first and the others in titled groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One definition list a group, in the order in which the groups are declared."""
        groups: dict[str, list[tuple[str, str]]] = {COMMON: []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(_group(param), []).append(record)
        last = groups.pop(_LAST, [])
        for title, records in [*groups.items(), (_LAST, last)]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _group(param: click.Parameter) -> str:
    if not isinstance(param, SchemaOption):
        return _LAST
    return COMMON if param.entry.option.common else param.entry.option.group or _LAST


def single(schema: type, path: str) -> Callable[[Any], Any]:
    """A decorator with one option of a schema and its default, for commands that share it."""
    entry = next(each for each in entries(schema) if each.path == path)
    make = functools.partial(click_option, entry, filled=True)

    def decorate(command: Any) -> Any:
        command.__click_params__ = [*getattr(command, "__click_params__", []), make()]
        return command

    return decorate
