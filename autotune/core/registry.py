"""Implementations by name, with options: `dipsvd-heuristic:sign=paper,beta=0.3`.

A `Registry` maps names to `module:Class`. It holds this package's own implementations and those
that installed distributions declare as entry points of its group:

    [project.entry-points."autotune.metrics"]
    third = "third_package.metric:Third"

Nothing is imported until it is asked for, an own name cannot be replaced, and what goes wrong in
another distribution is reported with that distribution's name. Options are arguments of the class;
their values are checked against its annotations (`autotune.core.plugin_options`).
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import Any

from autotune.core.errors import UsageError
from autotune.core.plugin_options import convert_options

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_.-]*")


class Registry(Mapping[str, str]):
    """Names of one kind of part, each with its `module:Class`.

    `what` is the word for a part in messages, `group` the entry-point group of further ones.
    """

    def __init__(self, what: str, group: str, *, own: Mapping[str, str]) -> None:
        self.what, self.group, self._own = what, group, dict(own)

    def __getitem__(self, name: str) -> str:
        if name in self._own:
            return self._own[name]
        found = _entry_points(self.group, tuple(sys.path))[name]
        origins = sorted({_origin(each) for each in found})
        if len(origins) > 1:
            raise UsageError(
                f"{self.what} {name!r} is provided by several distributions, "
                f"{' and '.join(origins)}; uninstall all but one"
            )
        return found[0].value

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        for name in _entry_points(self.group, tuple(sys.path)):
            if name not in self._own:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in _entry_points(self.group, tuple(sys.path))

    def distribution(self, name: str) -> str | None:
        """The distribution that provides a name; None for this package's own."""
        if name in self._own:
            return None
        return _origin(_entry_points(self.group, tuple(sys.path))[name][0])

    def load(self, name: str) -> Any:
        """The class of that name, imported now.

        Raises:
            UsageError: unknown (the known names are listed), or provided by another distribution
                that cannot be imported.
        """
        self.check(name)
        module, _, attributes = self[name].partition(":")
        origin = self.distribution(name)
        try:
            found: Any = import_module(module)
            for attribute in attributes.split("."):
                found = getattr(found, attribute)
        except Exception as error:
            if origin is None:
                raise
            raise UsageError(
                f"{self.what} {name!r} of the distribution {origin} cannot be loaded "
                f"({type(error).__name__}: {error}); update or uninstall {origin}"
            ) from error
        return found

    def construct(self, name: str, *arguments: Any, **values: Any) -> Any:
        """An instance of the class of that name.

        Raises:
            UsageError: as `load`, or another distribution's class fails when it is made.
            TypeError, ValueError: the arguments are refused.
        """
        made = self.load(name)
        try:
            return made(*arguments, **values)
        except (TypeError, ValueError):
            raise
        except Exception as error:
            origin = self.distribution(name)
            if origin is None:
                raise
            raise UsageError(
                f"{self.what} {name!r} of the distribution {origin} failed "
                f"({type(error).__name__}: {error}); update or uninstall {origin}"
            ) from error

    def check(self, name: str) -> None:
        """Refuse a name that is not registered, without importing anything.

        Raises:
            UsageError: an unknown name; the known ones are listed.
        """
        if name not in self:
            raise UsageError(f"unknown {self.what} {name!r}; known are {', '.join(self)}")


@functools.lru_cache(maxsize=64)
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, list[metadata.EntryPoint]]:
    """Entry points of a group by name; cached for one search path."""
    del path
    found: dict[str, list[metadata.EntryPoint]] = {}
    for each in sorted(metadata.entry_points(group=group), key=lambda one: one.name):
        if _NAME.fullmatch(each.name):
            found.setdefault(each.name, []).append(each)
    return found


def _origin(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "of an unknown name"


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of `NAME:key=value,key=value`, values as they are written.

    Raises:
        UsageError: an option without a value, or with two.
    """
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise UsageError(f"{text!r}: write options as NAME:key=value,key=value")
        if key.strip() in options:
            raise UsageError(f"{text!r} sets the option {key.strip()!r} twice")
        options[key.strip()] = value.strip()
    return name, options


def check_spec(text: str, registry: Registry) -> None:
    """Refuse a name that is not registered, or options that what it names does not take.

    Nothing is imported for a name without options.

    Raises:
        UsageError: an unknown name (the known ones are listed); an option that is malformed or
            unknown, or a value that it cannot have.
    """
    name, options = parse_spec(text)
    registry.check(name)
    if options:
        make(text, registry)


def make(text: str, registry: Registry) -> Any:
    """The implementation that `text` names, made with its options.

    Raises:
        UsageError: an unknown name, option or option value (the known ones are listed), or an
            implementation of another distribution that fails.
    """
    name, options = parse_spec(text)
    values = convert_options(registry.load(name), options, what=f"{registry.what} {name}")
    try:
        return registry.construct(name, **values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{registry.what} {text!r}: {error}") from error
