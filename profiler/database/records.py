"""Records of the latency database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import LayerShape
from autotune.devices.health import ClockReading

# Of the seconds of single calls, what is kept of every measurement.
PERCENTS = (5, 25, 50, 75, 95)
LINEAR = "linear"


def kind_of(parts: tuple[int, ...]) -> str:
    """`linear`, or `shared:512+128+128` for layers of these widths with one input."""
    return f"shared:{'+'.join(map(str, parts))}" if parts else LINEAR


def parts_of(kind: str) -> tuple[int, ...]:
    """The widths back from `kind_of`."""
    _, _, widths = kind.partition(":")
    return tuple(int(width) for width in widths.split("+")) if widths else ()


@dataclass(frozen=True, kw_only=True)
class DriftCheck:
    """What timing some points of a database again showed, and when; changes are logarithms."""

    checked_at: str
    anchors: int
    moved: int
    failed: int
    ratio_change: float
    latency_change: float

    @property
    def valid(self) -> bool:
        """At most a quarter of the ratios moved by more than 5 %, and nothing failed."""
        return not self.failed and self.moved <= self.anchors / 4

    @property
    def verdict(self) -> str:
        """VALID or STALE."""
        return "VALID" if self.valid else "STALE"

    def to_json(self) -> dict[str, str | int | float]:
        """Plain JSON, the verdict with it."""
        return {**vars(self), "verdict": self.verdict}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured point; rank 0 is the dense layer. Either times or an error.

    `ratio` is latency recovery, the median of paired rounds, with its 95 % interval.
    """

    kind: str = LINEAR
    tokens: int
    in_features: int
    out_features: int
    rank: int
    dtype: str
    latency_s: float | None
    dense_latency_s: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    rounds: int
    windows: int
    disturbed_windows: int
    converged: int
    error: str | None
    measured_at: str

    @property
    def shape(self) -> LayerShape:
        """The layer this is a measurement of."""
        return LayerShape(
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            form=low_rank(self.rank) if self.rank else DENSE,
            dtype=self.dtype,
            parts=parts_of(self.kind),
        )


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What the summary of a measurement leaves out: seconds of single calls, in their order.

    `quantiles_s` are of all of them at `PERCENTS`; `samples_s` may be every second or third only.
    """

    quantiles_s: tuple[float, ...]
    samples_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a run's numbers come from: "measured" here, from a "package" or a "file"."""

    kind: str
    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class RunContents:
    """One run with everything that belongs to it; `details` go by their measurement."""

    id: str
    started_at: str
    plan: str
    origin: Origin
    rows: Sequence[Measurement]
    details: Mapping[LayerShape, Detail]
    clocks: Sequence[ClockReading]
