"""Records of the latency database."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autotune.core.layers import LayerShape
from autotune.devices.health import ClockReading

# Of the seconds of single calls, what is kept of every measurement.
PERCENTS = (5, 25, 50, 75, 95)


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
        """VALID where the points still hold, else STALE."""
        return "VALID" if self.valid else "STALE"

    def to_json(self) -> dict[str, str | int | float]:
        """Plain JSON of all fields and the verdict."""
        return {**vars(self), "verdict": self.verdict}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One layer, timed alternately with its dense layer.

    `ratio` is latency recovery, the median of paired rounds, with its 95 % interval. The policy's
    precision was reached where `converged`; `disturbed_windows` of `windows` were left out.
    `energy_j` of one execution and the mean `power_w` while it is repeated are None where they were
    not counted.
    """

    shape: LayerShape
    latency_s: float
    dense_latency_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    windows: int
    disturbed_windows: int
    converged: bool
    measured_at: str
    energy_j: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, kw_only=True)
class FailedMeasurement:
    """A layer that could not be timed, and why: it is tried again, and gives way to a success."""

    shape: LayerShape
    error: str
    measured_at: str


Row = Measurement | FailedMeasurement


def measured_rows(rows: Iterable[Row]) -> list[Measurement]:
    """The rows that hold times, in their order."""
    return [row for row in rows if isinstance(row, Measurement)]


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
    rows: Sequence[Row]
    details: Mapping[LayerShape, Detail]
    clocks: Sequence[ClockReading]


def timestamp() -> str:
    """Now, UTC, ISO 8601 with seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
