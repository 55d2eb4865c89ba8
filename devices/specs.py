"""Specification sheets: one TOML file a device, each number with its source."""

from __future__ import annotations

import difflib
import functools
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from autotune.core.errors import UsageError
from autotune.core.types import from_mapping
from autotune.devices.visible import visible_gpus


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

    def is_reported_as(self, name: str) -> bool:
        """Whether `name` is what the driver calls it."""
        return bool(re.fullmatch(self.driver_name, name.removeprefix("NVIDIA ")))

    def cliff(self, dtype: str) -> int:
        """Other ranks fall back to slow kernels: on a GPU by up to 8 times, on a CPU hardly."""
        return self.rank_multiple(dtype) if self.kind == "cuda" else 1


DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
HALF_PRECISION = ("bf16", "fp16")
# What PyTorch calls them.
TORCH_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

# What people write who mean the GPU that is there.
_ANY_GPU = ("gpu", "cuda", "nvidia")
# What people write before the name of a GPU.
_MAKERS = ("nvidia", "amd", "geforce", "instinct", "tesla", "quadro")


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
    _check_texts(spec)
    for name, magnitude in _MAGNITUDES.items():
        if name not in spec.sources:
            raise UsageError(
                f"{name} has no source; state in [sources] where the number comes from"
            )
        value = getattr(spec, name)
        for rate in value.values() if isinstance(value, Mapping) else [value]:
            magnitude.check(name, rate)
    if not spec.peak_flops or not set(spec.peak_flops) <= set(DTYPE_BYTES):
        raise UsageError(
            f"peak_flops must give rates of {', '.join(DTYPE_BYTES)}, not {dict(spec.peak_flops)!r}"
        )
    if spec.kind not in ("cpu", "cuda"):
        raise UsageError(f"kind must be cpu or cuda, not {spec.kind!r}")
    return spec


def _check_texts(spec: DeviceSpec) -> None:
    """Refuse a name that is no text, or a driver's name that is no regular expression."""
    texts = {"name": spec.name, "title": spec.title, "driver_name": spec.driver_name}
    for name, value in (*texts.items(), *(("aliases", alias) for alias in spec.aliases)):
        if not isinstance(value, str):
            raise UsageError(f"{name} must be text, not {value!r}")
    try:
        re.compile(spec.driver_name)
    except re.error as error:
        raise UsageError(
            f"driver_name must be a regular expression, not {spec.driver_name!r}: {error}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Magnitude:
    """What a number of a sheet may be: `unit` with an example, and the limits of any device."""

    unit: str
    low: float
    high: float

    def check(self, name: str, value: object) -> None:
        """Refuse what is no number, or no device's: most often one in another unit."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:  # type: ignore[operator]
            raise UsageError(
                f"{name} must be in {self.unit}, from {self.low:g} to {self.high:g}, not {value!r}"
            )


# From a board of ten watts to some generations from now.
_MAGNITUDES = {
    "peak_flops": _Magnitude(unit="FLOP/s, such as 312e12", low=1e9, high=1e17),
    "bandwidth_bytes_s": _Magnitude(unit="bytes/s, such as 696e9", low=1e9, high=1e15),
    "compute_units": _Magnitude(unit="streaming multiprocessors or cores", low=1, high=1e5),
    "cache_bytes": _Magnitude(unit="bytes, such as 40e6", low=1e4, high=1e11),
    "memory_bytes": _Magnitude(unit="bytes, such as 80e9", low=1e8, high=1e14),
    "alignment_bytes": _Magnitude(unit="bytes, such as 16", low=1, high=4096),
}


def find_device(name: str) -> DeviceSpec:
    """The specification of `name` or of an alias.

    Raises:
        UsageError: unknown, with the nearest names; or no more than a word for any GPU.
    """
    specs = known_devices()
    by_alias = {alias: spec for spec in specs.values() for alias in (spec.name, *spec.aliases)}
    asked = name.strip()
    spec = by_alias.get(asked.lower()) or by_alias.get(_spelled(asked))
    spec = spec or next((each for each in specs.values() if each.is_reported_as(asked)), None)
    if spec is not None:
        return spec
    if asked.lower() in _ANY_GPU:
        raise UsageError(_any_gpu(asked))
    near = difflib.get_close_matches(_spelled(asked), by_alias, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise UsageError(
        f"unknown device {name!r}; {hint}known are {', '.join(specs)}; to add one, put a file "
        f"{name}.toml like that of `autotune devices show {next(iter(specs))}` into "
        f"{own_devices_folder()}"
    )


def _spelled(name: str) -> str:
    """A device's name as the sheets spell it: "NVIDIA GeForce RTX 4090" is rtx-4090."""
    words = name.lower().replace("_", " ").replace("-", " ").split()
    while len(words) > 1 and words[0] in _MAKERS:
        del words[0]
    return "-".join(words)


def _any_gpu(name: str) -> str:
    """Why a word for any GPU does not do, and what is here to name."""
    here = ", ".join(gpu.name for gpu in visible_gpus())
    seen = f"here is {here}" if here else "no NVIDIA GPU is visible here"
    return (
        f"{name!r} is no name of a device, and {seen}; name the GPU, such as h100: "
        "`autotune devices` lists them, and which can be predicted from elsewhere"
    )
