"""What a job may ask for: the fields of the command line, read from the commands themselves."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import click
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

# No control characters: no argument, log or PostgreSQL text may hold them all.
Text = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Real = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
_RUN = Annotated[str, Field(description="Id of the finished job whose folder it is.")]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of job: its command, and the options that the service sets itself.

    `path`: the words of the command. `of_a_run`: it works on the folder of a finished job, named by
    `run`. `writes`: it makes a folder.
    """

    name: str
    path: tuple[str, ...]
    left_out: frozenset[str]
    of_a_run: bool = False
    writes: bool = False

    @property
    def command(self) -> click.Command:
        """Imported now."""
        first, *more = self.path
        found = importlib.import_module(f"autotune.cli.{first}").command
        for word in more:
            found = found.commands[word]
        return cast(click.Command, found)


_COMMON = frozenset(
    {"database", "output", "output_format", "as_json", "quiet", "folder", "farm", "token_file"}
)
KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="tune", path=("tune",), left_out=_COMMON, writes=True),
        Kind(name="profile", path=("profile",), left_out=_COMMON),
        Kind(name="export", path=("export",), left_out=_COMMON, of_a_run=True, writes=True),
        Kind(name="verify", path=("verify",), left_out=_COMMON, of_a_run=True),
        Kind(name="drift", path=("db", "drift"), left_out=_COMMON),
    )
}


@functools.cache
def spec_model(kind: str) -> type[BaseModel]:
    """The pydantic model of a kind's fields; what is unknown is refused."""
    found = KINDS[kind]
    fields: dict[str, Any] = {}
    for option in _options(found):
        field = Field(_default(option), description=option.help)
        fields[str(option.name)] = (_type(option), field)
    if found.of_a_run:
        fields["run"] = (_RUN, Field())
    name = f"{kind.capitalize()}Spec"
    doc = str(found.command.help).partition("\n")[0]
    return create_model(name, __config__=ConfigDict(extra="forbid"), __doc__=doc, **fields)


def _options(kind: Kind) -> list[click.Option]:
    found = [each for each in kind.command.params if isinstance(each, click.Option)]
    return [each for each in found if each.name not in kind.left_out]


def _type(option: click.Option) -> Any:
    kind: Any
    if option.is_flag:
        return bool
    if isinstance(option.type, click.Choice):
        kind = Literal[tuple(option.type.choices)]
    elif isinstance(option.type, click.IntRange):
        kind = Annotated[int, Field(ge=option.type.min, le=option.type.max)]
    else:
        plain = {"integer": Count, "float": Real}
        kind = plain.get(option.type.name, Text)
    if option.multiple:
        return Annotated[list[kind], Field(max_length=64)]
    return kind | None if _default(option) is None else kind


def _default(option: click.Option) -> Any:
    value = option.to_info_dict()["default"]
    if option.multiple:
        return []
    if option.is_flag:
        return bool(value)
    return value if isinstance(value, str | int | float) else None


def defaults(kind: str) -> dict[str, Any]:
    """Every field's value where nothing is given."""
    return {str(option.name): _default(option) for option in _options(KINDS[kind])}


def arguments(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """The command's options for a spec; a value can never be taken for an option's name."""
    found = []
    for option in _options(KINDS[kind]):
        value = spec.get(str(option.name), _default(option))
        name = max(option.opts, key=len)
        if option.is_flag:
            if value != _default(option):
                found.append(name if value else option.secondary_opts[0])
        elif option.multiple:
            found += [f"{name}={each}" for each in value]
        elif value is not None and value != _default(option):
            found.append(f"{name}={value}")
    return found
