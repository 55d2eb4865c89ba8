"""Models of the HTTP interface, derived from schemas of options (`autotune.core.options`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from types import GenericAlias
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from autotune.core.options import Entry, entries, nested
from autotune.core.options_json import Nested, at, flat_entries, place
from autotune.core.types import LARGEST_INTEGER

# No control characters: no argument, log or PostgreSQL text may hold them all.
Text = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Spec(BaseModel):
    """Options of a job; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid")


class TakesFlatNames(Spec):
    """Options by subject and, for one release, by the flat names of older versions."""

    SCHEMA: ClassVar[type]
    _flat: bool = PrivateAttr(default=False)

    @property
    def flat(self) -> bool:
        """Whether an option was given by its flat name."""
        return self._flat

    @model_validator(mode="wrap")
    @classmethod
    def _lift(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Put flat options in their places; errors are reported under the names that were given."""
        if not isinstance(values, Mapping):
            return handler(values)
        lifted, names = lift(cls.SCHEMA, values)
        try:
            made = handler(lifted)
        except ValidationError as error:
            raise _renamed(error, names) from None
        made._flat = bool(names)
        return made


def lift(schema: type, values: Mapping[str, Any]) -> tuple[Nested, dict[str, str]]:
    """Nested JSON of nested and flat options, and the flat name that stands for each path.

    A flat option that is None was not given: older clients send every field.

    Raises:
        PydanticCustomError: an option was given by both of its names.
    """
    known, parts = flat_entries(schema), nested(schema)
    flat = {
        key: known[key].path
        for key, value in values.items()
        if key in known
        and known[key].path != key
        and not (key in parts and isinstance(value, Mapping))
    }
    found: Nested = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in flat
    }
    names = {}
    for key, path in flat.items():
        if values[key] is None or not isinstance(found.get(path.partition(".")[0], {}), Mapping):
            continue
        if at(found, path, default=...) is not ...:
            text = f"{key} and {path} are two names of one option; give one of them"
            raise PydanticCustomError("given_twice", "{text}", {"text": text})
        place(found, path, value=values[key])
        names[path] = key
    return found, names


def _renamed(error: ValidationError, names: Mapping[str, str]) -> ValidationError:
    """The same error, with its locations as they were written."""
    lines = []
    for one in error.errors(include_url=False):
        path = ".".join(map(str, one["loc"][:2]))
        loc = (names[path], *one["loc"][2:]) if path in names else one["loc"]
        kind: Any = one["type"]
        if kind in ("given_twice", "value_error", "assertion_error"):
            kind = PydanticCustomError(kind, "{text}", {"text": one["msg"]})
        lines.append(
            InitErrorDetails(type=kind, loc=loc, input=one["input"], ctx=one.get("ctx", {}))
        )
    return ValidationError.from_exception_data(error.title, lines)


def pydantic_model(
    schema: type,
    name: str,
    *,
    base: type[Spec] = Spec,
    leave_out: Collection[str] = (),
    **more: Any,
) -> type[Spec]:
    """The model of a schema: its options, less those that belong to the machine that runs them.

    Sub-schemas become models of their own; `leave_out` are fields that the model lacks,
    and `more` are further ones.
    """
    fields: dict[str, Any] = {}
    parts = nested(schema)
    by_path = {entry.path: entry for entry in entries(schema)}
    prefix = getattr(schema, "PATH", "")
    for field in dataclasses.fields(schema):
        if field.name in parts:
            below = pydantic_model(parts[field.name], f"{field.name.capitalize()}Options")
            fields[field.name] = (below, Field(default_factory=below))
            continue
        entry = by_path[f"{prefix}.{field.name}".lstrip(".")]
        if not (entry.option.local or entry.option.secret or field.name in leave_out):
            fields[field.name] = _field(entry)
    doc = str(schema.__doc__).partition("\n")[0]
    made = create_model(name, __base__=base, __doc__=doc, **fields, **more)
    if issubclass(made, TakesFlatNames):
        made.SCHEMA = schema
    return made


def _field(entry: Entry) -> Any:
    """Type and description of an option."""
    default = list(entry.default) if entry.kind is tuple else entry.default
    kind = _type(entry)
    if entry.kind is tuple:
        kind = Annotated[GenericAlias(list, (kind,)), Field(max_length=64)]
    elif default is None and not entry.option.required:
        kind = kind | None
    return kind, Field(... if entry.option.required else default, description=_text(entry))


def _text(entry: Entry) -> str:
    option = entry.option
    default = f" Default: {option.default_text}." if option.default_text else ""
    names = f" One of {', '.join(option.names())}." if option.part else ""
    return f"{option.help}{names}{default}"


def _type(entry: Entry) -> Any:
    option = entry.option
    if option.choices and option.part is None:
        return Literal[option.names()]
    if entry.item is int:
        return Annotated[int, Field(ge=_whole(option.ge, 0), le=_whole(option.le, LARGEST_INTEGER))]
    if entry.item is float:
        high = 1e15 if option.le is None else option.le
        return Annotated[float, Field(ge=option.ge or 0.0, le=high, allow_inf_nan=False)]
    return bool if entry.item is bool else Text


def _whole(bound: float | None, otherwise: int) -> int:
    return otherwise if bound is None else int(bound)
