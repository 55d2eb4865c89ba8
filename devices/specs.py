"""Specification sheets: one TOML file a device, each number with its source."""

from __future__ import annotations

import difflib
import functools
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from autotune.core.errors import UsageError
from autotune.core.types import from_mapping


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A device as its maker describes it.

    `peak_flops` by dtype (FLOP/s, dense), `bandwidth_bytes_s` and `memory_bytes` of its memory,
    `compute_units` (streaming multiprocessors, or one core), `cache_bytes` of the last level,
    `alignment_bytes`: a rank whose row is a multiple of this keeps the fast kernels. `driver_name`
    is a regular expression for the name that the driver reports, without its maker. Devices of one
    `generation` are built alike. `sources` names the origin of each number.
    """

    name: str
    title: str
    kind: str
    aliases: tuple[str, ...] = ()
    generation: str = ""
    driver_name: str = ""
    peak_flops: Mapping[str, float]
    bandwidth_bytes_s: float
    compute_units: int
    cache_bytes: float
    memory_bytes: float
    alignment_bytes: int = 16
    sources: Mapping[str, str]

    def rank_multiple(self, dtype: str) -> int:
        """Aligned ranks are multiples of this."""
        return max(1, self.alignment_bytes // DTYPE_BYTES[dtype])

    @property
    def family(self) -> str:
        """Its generation; a device of none is its own."""
        return self.generation or self.name

    @property
    def default_dtype(self) -> str:
        """What models are served in on such a device."""
        if self.kind == "cpu":
            return "fp32"
        return "bf16" if "bf16" in self.peak_flops else "fp16"

    def cliff(self, dtype: str) -> int:
        """Other ranks fall back to slow kernels: on a GPU by up to 8 times, on a CPU hardly."""
        return self.rank_multiple(dtype) if self.kind == "cuda" else 1


DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
# What PyTorch calls them.
TORCH_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

# What people write who mean the GPU that is there.
_ANY_GPU = ("gpu", "cuda", "nvidia")


def own_devices_folder() -> Path:
    """Where a user keeps own files: `$AUTOTUNE_DEVICES`, else `~/.config/autotune/devices`."""
    given = os.environ.get("AUTOTUNE_DEVICES")
    return Path(given) if given else Path.home() / ".config" / "autotune" / "devices"


def known_devices() -> dict[str, DeviceSpec]:
    """Every specification by name: the shipped ones, and the user's own, which come before them.

    Raises:
        UsageError: a file of the user's is no specification; names the file and the mistake.
    """
    return {name: spec for name, (spec, _) in sorted(_files().items())}


def device_names() -> list[str]:
    """The names and aliases of all devices.

    Raises:
        UsageError: as `known_devices`.
    """
    return [name for spec in known_devices().values() for name in (spec.name, *spec.aliases)]


def device_file(name: str) -> str:
    """The TOML text of a device, as a pattern for another.

    Raises:
        UsageError: unknown.
    """
    return _files()[find_device(name).name][1]


def _files() -> dict[str, tuple[DeviceSpec, str]]:
    own = own_devices_folder()
    entries = [*(files("autotune.devices") / "data").iterdir()]
    entries += sorted(own.iterdir()) if own.is_dir() else []
    found = {}
    for entry in entries:
        if entry.name.endswith(".toml"):
            try:
                text = entry.read_text(encoding="utf-8")
                spec = _read(text)
            except (ValueError, OSError) as error:
                raise UsageError(f"device file {entry}: {error}") from error
            found[spec.name] = (spec, text)
    return found


@functools.lru_cache(maxsize=256)
def _read(text: str) -> DeviceSpec:
    values = tomllib.loads(text)
    values["aliases"] = tuple(values.get("aliases", ()))
    spec = from_mapping(DeviceSpec, values)
    numbers = ("bandwidth_bytes_s", "compute_units", "cache_bytes", "memory_bytes", "peak_flops")
    for name in numbers:
        if name not in spec.sources:
            raise UsageError(
                f"{name} has no source; state in [sources] where the number comes from"
            )
        value = getattr(spec, name)
        rates = value.values() if isinstance(value, Mapping) else [value]
        if not rates or not all(isinstance(r, int | float) and 0 < r < 1e18 for r in rates):
            raise UsageError(f"{name} must be above zero, not {value!r}")
    if spec.kind not in ("cpu", "cuda"):
        raise UsageError(f"kind must be cpu or cuda, not {spec.kind!r}")
    return spec


def find_device(name: str) -> DeviceSpec:
    """The specification of `name` or of an alias.

    Raises:
        UsageError: unknown, with the nearest names; or no more than a word for any GPU.
    """
    specs = known_devices()
    by_alias = {alias: spec for spec in specs.values() for alias in (spec.name, *spec.aliases)}
    spec = by_alias.get(name.lower())
    if spec is not None:
        return spec
    if name.lower() in _ANY_GPU:
        raise UsageError(
            f"{name!r} is no name of a device; name the GPU, such as h100: `autotune devices` "
            "lists them"
        )
    near = difflib.get_close_matches(name.lower(), by_alias, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise UsageError(
        f"unknown device {name!r}; {hint}known are {', '.join(specs)}; to add one, put a file "
        f"{name}.toml like that of `autotune devices show {next(iter(specs))}` into "
        f"{own_devices_folder()}"
    )
