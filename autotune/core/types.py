"""Frozen records that every room shares. Imports nothing of ours but errors and units."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from autotune.core.errors import UsageError
from autotune.core.workload import PHASES as PHASES
from autotune.core.workload import RESOURCES as RESOURCES
from autotune.core.workload import Budget as Budget
from autotune.core.workload import Workload as Workload

SCHEMA_VERSION = 3

# Of a latency database: the path of a SQLite file, or the URL of a PostgreSQL database
# (`postgresql://user@host/name`).
Address = Path | str
Source = Literal["measured", "imported", "interpolated", "predicted", "extrapolated", "roofline"]
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


@dataclass(frozen=True, kw_only=True, order=True)
class LayerShape:
    """One linear layer on one workload: (M × K)·(K × N), or its rank-r pair.

    With `parts` it is several layers of these widths (N = Σ parts) that share their input: side by
    side when dense, else one shared down factor (K × r) and an up factor for each.
    """

    tokens: int
    in_features: int
    out_features: int
    rank: int | None = None
    dtype: str = "fp32"
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))  # JSON brings a list

    @property
    def widths(self) -> tuple[int, ...]:
        """Output widths of the layers: `parts`, or N alone."""
        return self.parts or (self.out_features,)

    @property
    def dense(self) -> LayerShape:
        """The same layer, not factorized."""
        if self.rank is None:
            return self
        return LayerShape(  # dataclasses.replace takes five times as long
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            dtype=self.dtype,
            parts=self.parts,
        )

    @property
    def parameters(self) -> int:
        """Weights (bias not counted): N·K dense, r·(N+K) factorized."""
        k, n = self.in_features, self.out_features
        return k * n if self.rank is None else self.rank * (k + n)

    @property
    def flops(self) -> int:
        """Multiplications and additions of one run: 2·M·parameters."""
        return 2 * self.tokens * self.parameters


def break_even_rank(in_features: int, out_features: int) -> int:
    """The largest rank whose factors hold no more parameters than the dense weight."""
    return (in_features * out_features) // (in_features + out_features)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A linear layer that may be factorized: its module name, shape and place.

    With `members` it is a joint site: layers (of widths `parts`, N = Σ parts) with one input, which
    may be factorized together, with one shared down factor.
    """

    name: str
    in_features: int
    out_features: int
    tokens: int
    group: str = "other"
    block: int | None = None
    has_bias: bool = False
    members: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Module names of the layers it stands for."""
        return self.members or (self.name,)

    def shape(self, rank: int | None = None, dtype: str = "fp32") -> LayerShape:
        """The layer's shape at `rank` (None = dense)."""
        return LayerShape(
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            rank=rank,
            dtype=dtype,
            parts=self.parts,
        )


def chosen_units(
    units: Iterable[Site], ranks: Mapping[str, int | None]
) -> list[tuple[Site, int | None]]:
    """The units that cover every layer once under `ranks`, with their rank (None = dense).

    `units` are layers and joint sites; a joint site counts when it has a rank, and then its members
    do not. A layer without an entry is dense.
    """
    units = list(units)
    joint = [unit for unit in units if unit.members and ranks.get(unit.name) is not None]
    taken = {name for unit in joint for name in unit.members}
    alone = [unit for unit in units if not unit.members and unit.name not in taken]
    return [(unit, ranks.get(unit.name)) for unit in (*alone, *joint)]


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
    """

    latency_s: float
    low_s: float
    high_s: float
    ratio: float
    source: Source
