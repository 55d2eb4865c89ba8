"""Specification sheets: one TOML file a device, each number with its source."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from autotune.errors import UsageError
from autotune.types import from_mapping


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A device as its maker describes it.

    `peak_flops` by dtype (FLOP/s, dense), `bandwidth_bytes_s` of its memory, `alignment_bytes`:
    a rank whose row is a multiple of this keeps the fast kernels. `sources` names the origin of
    each number.
    """

    name: str
    title: str
    kind: str
    aliases: tuple[str, ...] = ()
    peak_flops: Mapping[str, float] = field(default_factory=dict)
    bandwidth_bytes_s: float = 0.0
    alignment_bytes: int = 16
    sources: Mapping[str, str] = field(default_factory=dict)

    def rank_multiple(self, dtype: str) -> int:
        """Aligned ranks are multiples of this."""
        return max(1, self.alignment_bytes // DTYPE_BYTES[dtype])


DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def known_devices() -> dict[str, DeviceSpec]:
    """Every shipped specification, by name."""
    specs = {}
    for entry in (files("autotune.devices") / "data").iterdir():
        if entry.name.endswith(".toml"):
            values = tomllib.loads(entry.read_text(encoding="utf-8"))
            values["aliases"] = tuple(values.get("aliases", ()))
            spec = from_mapping(DeviceSpec, values)
            specs[spec.name] = spec
    return dict(sorted(specs.items()))


def find_device(name: str) -> DeviceSpec:
    """The specification of `name` or of an alias.

    Raises:
        UsageError: unknown; suggests the nearest names.
    """
    specs = known_devices()
    by_alias = {alias: spec for spec in specs.values() for alias in (spec.name, *spec.aliases)}
    spec = by_alias.get(name.lower())
    if spec is not None:
        return spec
    near = difflib.get_close_matches(name.lower(), by_alias, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise UsageError(
        f"unknown device {name!r}; {hint}known are {', '.join(specs)} "
        "(a new one is one TOML file in devices/data)"
    )
