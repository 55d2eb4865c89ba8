"""Quantities as people write them: `20ms`, `850us`, `8GiB`, `1.5GB`, `0.75x`.

A small strict parser: a number without exponent or sign, and a unit that cannot be misread.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from autotune.core.errors import QuantityError

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {
    "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
# What a quality floor is a limit on: the task's figure on held-out data.
QUALITY = "quality"
_NUMBER = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})\s*([^\d\s.]*)\s*")

UNITS: dict[str, dict[str, float]] = {
    "latency": _SECONDS,
    "weight_bytes": _BYTES,
    "parameters": _COUNTS,
    "flops": _COUNTS,
    "kv_cache_bytes": _BYTES,
    "activation_bytes": _BYTES,
    QUALITY: {"": 1.0},
}
_NAMES = {
    "latency": "the latency",
    "weight_bytes": "the bytes of the weights",
    "parameters": "the number of parameters",
    "flops": "the FLOPs",
    "kv_cache_bytes": "the bytes of the KV cache",
    "activation_bytes": "the bytes of the activations",
    QUALITY: "the quality figure",
}
_EXAMPLES = {
    "latency": "20ms, 850us, 1.5s or 0.75x",
    "weight_bytes": "8GiB, 1.5GB or 0.8x",
    "parameters": "25M, 7B or 0.8x",
    "flops": "20G, 1.5T or 0.8x",
    "kv_cache_bytes": "2GiB or 1x",
    "activation_bytes": "200MB or 1x",
    QUALITY: "0.99 or 1.05x",
}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A limit: absolute (seconds, bytes, counts) or relative to the dense model."""

    value: float
    relative: bool
    text: str

    def resolve(self, dense: float) -> float:
        """The absolute limit, given the dense model's own value in the same unit."""
        return self.value * dense if self.relative else self.value


def parse_quantity(text: str, resource: str) -> Quantity:
    """Parse `text` as a limit on `resource` (a key of `UNITS`).

    Raises:
        QuantityError: no such form, an unknown unit, zero, or not finite.
    """
    units = UNITS[resource]
    match = _NUMBER.fullmatch(text)
    unit = match.group(2) if match else ""
    if match is None or (unit != "x" and unit not in units):
        raise QuantityError(
            f"{text!r} is not a limit on {_NAMES[resource]}; write a number with a unit, such as "
            f"{_EXAMPLES[resource]} (x = relative to the dense model)"
        )
    value = float(match.group(1)) * (1.0 if unit == "x" else units[unit])
    if not (0.0 < value < math.inf):
        raise QuantityError(f"{text!r}: a limit on {_NAMES[resource]} must be above zero")
    if unit == "x" and value > 1.0 and resource != QUALITY:
        raise QuantityError(
            f"{text!r}: relative to the dense model, so at most 1x; "
            "a model that may be slower than dense needs no tuning"
        )
    return Quantity(value=value, relative=unit == "x", text=text.strip())


def format_seconds(seconds: float) -> str:
    """Three significant digits with the unit that fits: `12.3 ms`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def format_bytes(count: float) -> str:
    """Three significant digits with a decimal unit: `90.9 MB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def format_count(count: float) -> str:
    """Three significant digits with K, M, G, T."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f}"
