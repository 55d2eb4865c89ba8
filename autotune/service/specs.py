"""What a job may ask for, and how its options are stored and run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from autotune.cli.job_options import DriftOptions, ExportOptions, VerifyOptions
from autotune.cli.schema import default_value
from autotune.core.errors import UsageError
from autotune.core.options import Entry, entries
from autotune.core.options_json import Nested, at, from_json, nested_from_flat, to_json
from autotune.layers.options import ProfileOptions
from autotune.service.schema import Spec, TakesFlatNames, pydantic_model
from autotune.service.schema import Text as Text
from autotune.tuning.request import TuneRequest

_RUN = Annotated[str, Field(description="Id of the finished job whose folder it is.")]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of job: its command and the schema of its options.

    `path`: the words of the command. `of_a_run`: it works on the folder of a finished job, named by
    `run`. `writes`: it makes a folder.
    """

    name: str
    path: tuple[str, ...]
    schema: type
    of_a_run: bool = False
    writes: bool = False

    @property
    def options(self) -> tuple[Entry, ...]:
        """The options that a job may set; the service sets the others itself."""
        return tuple(e for e in entries(self.schema) if not (e.option.local or e.option.secret))

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return str(self.schema.__doc__).partition("\n")[0]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="tune", path=("tune",), schema=TuneRequest, writes=True),
        Kind(name="profile", path=("profile",), schema=ProfileOptions),
        Kind(name="export", path=("export",), schema=ExportOptions, of_a_run=True, writes=True),
        Kind(name="verify", path=("verify",), schema=VerifyOptions, of_a_run=True),
        Kind(name="drift", path=("db", "drift"), schema=DriftOptions),
    )
}


@functools.cache
def spec_model(kind: str) -> type[Spec]:
    """The pydantic model of a kind's options."""
    found = KINDS[kind]
    more: dict[str, Any] = {"run": (_RUN, Field())} if found.of_a_run else {}
    base = TakesFlatNames if found.schema is TuneRequest else Spec
    return pydantic_model(found.schema, f"{kind.capitalize()}Spec", base=base, **more)


def canonical(kind: str, spec: Mapping[str, Any]) -> Nested:
    """A spec as it is stored: every option by its path, with the value that it will have.

    Raises:
        OptionError: a value that cannot be used.
    """
    run = {"run": spec["run"]} if "run" in spec else {}
    options = {key: value for key, value in spec.items() if key != "run"}
    return {**to_json(from_json(KINDS[kind].schema, options), portable=True), **run}


def upgraded(kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored spec in today's form: tunings used to be stored under flat names.

    What cannot be read stays as it is; such a job fails with a sentence when it runs.
    """
    if kind not in KINDS or KINDS[kind].schema is not TuneRequest or not is_flat(spec):
        return spec
    try:
        return canonical(kind, nested_from_flat(TuneRequest, spec))
    except UsageError:
        return spec


def is_flat(spec: Mapping[str, Any]) -> bool:
    """Whether a stored spec of a tuning is of the flat form of older versions."""
    return "budget" not in spec


def flat_spec(kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a stored spec by their flat names, as flags and forms have them."""
    found = {e.option.flat: at(spec, e.path) for e in KINDS[kind].options if e.option.flat}
    return found | ({"run": spec["run"]} if "run" in spec else {})


def defaults(kind: str) -> dict[str, Any]:
    """The value of every option where it is not given, by flat name."""
    return {e.option.flat: default_value(e) for e in KINDS[kind].options if e.option.flat}


def arguments(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """The command's options for a spec; a value can never be taken for an option's name."""
    found = []
    for entry in KINDS[kind].options:
        value, flag = at(spec, entry.path, default=default_value(entry)), entry.option.flag
        if entry.kind is tuple:
            found += [f"{flag}={each}" for each in value]
        elif entry.kind is bool and value != entry.default:
            found.append(flag if value else str(entry.option.off))
        elif entry.kind is not bool and value is not None and value != entry.default:
            found.append(f"{flag}={value}")
    return found
