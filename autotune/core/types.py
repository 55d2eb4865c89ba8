"""Frozen records that every room shares. Imports nothing of ours but errors and units."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from autotune.core.errors import UsageError
from autotune.core.workload import PHASES as PHASES
from autotune.core.workload import RESOURCES as RESOURCES
from autotune.core.workload import Budget as Budget
from autotune.core.workload import Workload as Workload

SCHEMA_VERSION = 3
# What every database and file format holds.
LARGEST_INTEGER = 2**31 - 1

# Of a latency database: the path of a SQLite file, or the URL of a PostgreSQL database
# (`postgresql://user@host/name`).
Address = Path | str
Source = Literal[
    "measured",
    "unsettled",
    "imported",
    "interpolated",
    "predicted",
    "extrapolated",
    "roofline",
]
# What an interval holds: the same machine with the same software, or another one as well.
Interval = Literal["table", "transfer"]
Record = TypeVar("Record")


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, no NaN; the input of every key and hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def from_mapping(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Build a record from JSON; a key it does not know, or one it lacks, is an error.

    Raises:
        UsageError: unknown or missing keys.
    """
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(
            f"{kind.__name__}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"{kind.__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Everything that makes two latencies comparable; measurements never mix fingerprints."""

    device: str
    device_name: str
    backend: str
    dtype: str
    threads: int
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """First 16 hex digits of the sha256 over all fields."""
        return digest(self.to_json())[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of all fields."""
        return {
            **dataclasses.asdict(self),
            "versions": dict(self.versions),
            "settings": dict(self.settings),
        }


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of one layer, with the bounds of its interval and where the number comes from.

    `ratio` is latency recovery: seconds / seconds of the dense layer (above 1 is slower).
    `ratio_half_width` is that of its own interval, in log: what is wrong with both layers alike is
    not in a ratio. None: the seconds' interval is the ratio's, as where the dense layer is known.
    """

    latency_s: float
    low_s: float
    high_s: float
    ratio: float
    source: Source
    ratio_half_width: float | None = None

    @property
    def ratio_low(self) -> float:
        """The lower end of the ratio's interval."""
        if self.ratio_half_width is None:
            return self.ratio * self.low_s / self.latency_s
        return self.ratio * math.exp(-self.ratio_half_width)

    @property
    def ratio_high(self) -> float:
        """The upper end of the ratio's interval."""
        if self.ratio_half_width is None:
            return self.ratio * self.high_s / self.latency_s
        return self.ratio * math.exp(self.ratio_half_width)

    def to_json(self) -> dict[str, Any]:
        """The estimate as callers see it, with both intervals as their ends."""
        found = {**vars(self), "ratio_low": self.ratio_low, "ratio_high": self.ratio_high}
        del found["ratio_half_width"]
        return found

    @property
    def log_half_width(self) -> float:
        """Half the width of the seconds' interval, in log."""
        return math.log(self.high_s / self.low_s) / 2

    @property
    def is_above_dense(self) -> bool:
        """Whether the whole interval lies above the seconds of the dense layer."""
        return self.low_s > self.latency_s / self.ratio
