"""Frozen records that every room shares; imports nothing of ours but errors and quantities."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from autotune.core.errors import UsageError
from autotune.core.quantities import Quantity, parse_quantity

RESOURCES = (
    "latency",
    "parameters",
    "weight_bytes",
    "flops",
    "kv_cache_bytes",
    "activation_bytes",
)
PHASES = ("prefill", "decode", "request")
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


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a latency is of: `batch_size` sequences of `sequence_length` input tokens.

    `phase`: "prefill", one pass over the input; "decode", one further token of every sequence, with
    keys and values of the input and half the output cached; "request", the prefill and
    `output_length` such steps (a step's cost grows by its past, so the step halfway is the mean).

    Raises:
        UsageError: a length that is no whole number, an unknown phase, or output without decode.
    """

    batch_size: int = 1
    sequence_length: int = 128
    output_length: int = 0
    phase: str = "prefill"

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise UsageError(f"unknown phase {self.phase!r}; known are {', '.join(PHASES)}")
        least = {"batch_size": 1, "sequence_length": 1, "output_length": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= 1 << 24:
                raise UsageError(f"{name} must be a whole number of at least {low}, not {value!r}")
        if self.phase == "request" and not self.output_length:
            raise UsageError("a request without output tokens is a prefill; give --osl, as in 128")
        if self.phase == "prefill" and self.output_length:
            raise UsageError(
                f"--osl {self.output_length} says nothing of a prefill; give --phase decode or "
                "--phase request"
            )

    @property
    def tokens(self) -> int:
        """Rows M that a per-token linear layer sees in the prefill."""
        return self.batch_size * self.sequence_length

    @property
    def text(self) -> str:
        """The workload in words, for reports and messages."""
        sequences = f"{self.batch_size} × {self.sequence_length} tokens"
        return {
            "prefill": sequences,
            "decode": f"one decode step of {self.batch_size} after {self.past_length} tokens each",
            "request": f"{sequences} and {self.output_length} decode steps",
        }[self.phase]

    @property
    def past_length(self) -> int:
        """Cached tokens of a sequence at the decode step that is timed."""
        return self.sequence_length + self.output_length // 2

    @property
    def passes(self) -> dict[str, int]:
        """Which graphs one workload runs ("prefill", "decode"), and how often."""
        counts = {"prefill": 1, "decode": self.output_length}
        return counts if self.phase == "request" else {self.phase: 1}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits as written (`20ms`, `0.85x`); None is no limit. At least one is set.

    Latency is of one run of the workload (of its `phase`); parameters and weight bytes are of the
    whole model, FLOPs of its factorizable layers in a prefill. KV-cache bytes are those of the
    workload's tokens; factorizing k and v projections does not shrink them, as keys and values are
    cached, not latents: such a budget is priced 0 at every site and either holds from the start or
    never. Activation bytes are the largest live input, latent and output of one factorizable layer.

    Raises:
        QuantityError: a limit that does not parse.
        UsageError: no limit at all.
    """

    latency: str | None = None
    parameters: str | None = None
    weight_bytes: str | None = None
    flops: str | None = None
    kv_cache_bytes: str | None = None
    activation_bytes: str | None = None

    def __post_init__(self) -> None:
        if not self.limits():
            raise UsageError("no budget given; set at least one, such as --latency-budget 0.85x")

    def limits(self) -> dict[str, Quantity]:
        """The limits that are set, parsed, by resource."""
        texts = {name: getattr(self, name) for name in RESOURCES}
        return {name: parse_quantity(text, name) for name, text in texts.items() if text}


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
