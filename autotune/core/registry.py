"""Implementations by name, with options: `dipsvd-heuristic:sign=paper,beta=0.3`.

A registry maps names to `module:Class`; what is asked for is imported then, and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from autotune.core.errors import UsageError


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options; values are whole numbers, numbers, true/false or words.

    Raises:
        UsageError: an option without a value.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise UsageError(f"{text!r}: write options as NAME:key=value,key=value")
        options[key.strip()] = _value(value.strip())
    return name, options


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_spec(text: str, registry: Mapping[str, str], what: str) -> None:
    """Refuse a name that is not registered, without importing anything.

    Raises:
        UsageError: an unknown name (the known ones are listed) or a malformed option.
    """
    name, _ = parse_spec(text)
    if name not in registry:
        raise UsageError(f"unknown {what} {name!r}; known are {', '.join(registry)}")


def make(text: str, registry: Mapping[str, str], what: str) -> Any:
    """The implementation that `text` names, made with its options.

    Raises:
        UsageError: an unknown name, option or option value (the known ones are listed).
    """
    name, options = parse_spec(text)
    cls = load(name, registry, what)
    known = [p for p in inspect.signature(cls).parameters if p not in ("args", "kwargs")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        listed = ", ".join(known) or "none"
        raise UsageError(f"{what} {name}: unknown option {unknown[0]!r}; known are {listed}")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} {text!r}: {error}") from error


def load(name: str, registry: Mapping[str, str], what: str) -> Any:
    """The class that `name` stands for, imported now.

    Raises:
        UsageError: an unknown name (the known ones are listed).
    """
    check_spec(name, registry, what)
    module, _, kind = registry[name].partition(":")
    return getattr(import_module(module), kind)
