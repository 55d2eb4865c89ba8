"""Schemas of options as JSON, nested as the schemas are, or flat with one name for each option."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from autotune.core.options import Entry, OptionError, check_value, entries, nested

Schema = TypeVar("Schema")
Nested = dict[str, Any]


def to_json(record: Any, *, portable: bool = False) -> Nested:
    """Plain nested JSON of a schema's instance; secrets are left out.

    `portable` also leaves out the options that belong to the machine that runs the tuning.
    """
    found: Nested = {}
    parts = nested(type(record))
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name in parts:
            found[field.name] = to_json(value, portable=portable)
            continue
        option = _entry(type(record), field.name).option
        if not (option.secret or (portable and option.local)):
            found[field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _entry(schema: type, name: str) -> Entry:
    prefix = getattr(schema, "PATH", "")
    path = f"{prefix}.{name}".lstrip(".")
    return next(entry for entry in entries(schema) if entry.path == path)


def _is_secret(schema: type, name: str) -> bool:
    return name not in nested(schema) and _entry(schema, name).option.secret


def from_json(schema: type[Schema], values: Any, *, root: type | None = None) -> Schema:
    """The instance of a schema that nested JSON describes; what is missing has its default.

    Raises:
        OptionError: an unknown key (the known ones are listed), or a value that cannot be used.
    """
    root = root or schema
    prefix = getattr(schema, "PATH", "")
    if not isinstance(values, Mapping):
        raise OptionError(
            "", f"{prefix or 'a request'} must be an object", value=values, schema=root
        )
    parts = nested(schema)
    known = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            path = f"{prefix}.{key}".lstrip(".")
            shown = sorted(name for name in known if not _is_secret(schema, name))
            text = f"unknown option {path!r}; known are {', '.join(shown)}"
            raise OptionError("", text, schema=root)
    made: Nested = {}
    for key, value in values.items():
        if key in parts:
            made[key] = from_json(parts[key], {} if value is None else value, root=root)
        else:
            made[key] = check_value(_entry(schema, key), value, schema=root)
    return schema(**{key: value for key, value in made.items() if value is not None})


def nested_from_flat(schema: type, flat: Mapping[str, Any]) -> Nested:
    """Nested JSON of options by their flat names; options that are None or empty are left out.

    Raises:
        OptionError: an unknown name.
    """
    by_name = flat_entries(schema)
    found: Nested = {}
    for name, value in flat.items():
        if name not in by_name:
            text = f"unknown option {name!r}; known are {', '.join(sorted(by_name))}"
            raise OptionError("", text, schema=schema)
        if value is not None and value != () and value != []:
            place(found, by_name[name].path, value=value)
    return found


def flat_entries(schema: type) -> dict[str, Entry]:
    """Every option that has a flat name, by it."""
    return {e.option.flat: e for e in entries(schema) if e.option.flat}


def place(values: Nested, path: str, *, value: Any) -> None:
    """Set the value at a path such as `search.trials`, making the objects on the way."""
    *above, last = path.split(".")
    for name in above:
        values = values.setdefault(name, {})
    values[last] = value


def at(values: Mapping[str, Any], path: str, *, default: Any = None) -> Any:
    """The value at a path such as `search.trials`; `default` where there is none."""
    found: Any = values
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return default
        found = found[name]
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> Nested:
    """Nested JSON with the values of `second` over those of `first`."""
    found = dict(first)
    for key, value in second.items():
        below = found.get(key)
        whole = isinstance(value, Mapping) and isinstance(below, Mapping)
        found[key] = merged(below, value) if whole else value  # type: ignore[arg-type]
    return found
