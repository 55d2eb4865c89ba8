"""Records of what low rank and other precisions could bring to a model on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Interval
from autotune.devices.specs import DTYPE_BYTES

# The nominal level of all intervals.
LEVEL = 0.9
ChangeKind = Literal["rank", "precision"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """All layers of a network changed alike: latency / dense latency, with its 90 % interval.

    `kind`: "rank", every layer at the largest aligned rank that keeps at most the share `keep` of
    its parameters; "precision", every layer dense in one. `stacks` are the serving stacks of whose
    measurements it is; none where the table is this project's.
    """

    name: str
    kind: ChangeKind
    ratio: float
    ratio_low: float
    ratio_high: float
    keep: float | None = None
    stacks: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether it is faster than the dense network: an interval that contains 1 is undecided."""
        if self.ratio_high < 1:
            return "faster"
        return "slower" if self.ratio_low > 1 else "undecided"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the verdict."""
        return {**asdict(self), "stacks": list(self.stacks), "verdict": self.verdict}


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """Layers of one place in the blocks of a model, and of one size; seconds are of one layer.

    `share` is that of all of them in the dense phase. `faster_rank` is the largest aligned rank
    whose pair is surely faster than the dense layer (the whole 90 % interval), `likely_rank` the
    largest that is predicted to be, the latency break-even; None where there is none.
    """

    name: str
    count: int
    shape: LayerShape
    dense: Estimate
    share: float
    faster_rank: int | None
    likely_rank: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; seconds of the dense layer with their interval."""
        return {
            "name": self.name,
            "count": self.count,
            "tokens": self.shape.tokens,
            "in_features": self.shape.in_features,
            "out_features": self.shape.out_features,
            "dense_s": self.dense.latency_s,
            "low_s": self.dense.low_s,
            "high_s": self.dense.high_s,
            "source": self.dense.source,
            "share": self.share,
            "faster_rank": self.faster_rank,
            "likely_rank": self.likely_rank,
        }


@dataclass(frozen=True, kw_only=True)
class PhasePrediction:
    """One phase: seconds of the dense network once, its layers and the rest, and changes of all.

    The workload runs it `count` times; its layers have `tokens` rows, most of them.
    """

    name: str
    count: int
    tokens: int
    latency_s: float
    low_s: float
    high_s: float
    rest_s: float
    layers: tuple[LayerKind, ...]
    changes: tuple[Change, ...]

    @property
    def rest_share(self) -> float:
        """The share of the dense phase that no change of layers touches."""
        return self.rest_s / self.latency_s

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of all fields."""
        names = ("name", "count", "tokens", "latency_s", "low_s", "high_s", "rest_s", "rest_share")
        return {
            **{name: getattr(self, name) for name in names},
            "layers": [kind.to_json() for kind in self.layers],
            "changes": [each.to_json() for each in self.changes],
        }


@dataclass(frozen=True, kw_only=True)
class NetworkPrediction:
    """A model on a device as its configuration and the device's table have it.

    `changes` are of the whole workload, in the order of those of each phase; `refused` has those
    without a price, and why. `notes` say what stands against the figures. `parameters` are those of
    the whole model, also where `tensor_parallel` devices share it. What the intervals of 90 % hold
    is in `interval`, as in LayerPredictions.
    """

    model: str
    task: str
    device: str
    backend: str
    dtype: str
    workload: str
    tensor_parallel: int
    parameters: int
    interval: Interval
    sources: tuple[str, ...]
    phases: tuple[PhasePrediction, ...]
    changes: tuple[Change, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the dense weights, of all devices together."""
        return self.parameters * DTYPE_BYTES[self.dtype]

    @property
    def latency_s(self) -> float:
        """Seconds of the dense workload."""
        return sum(phase.count * phase.latency_s for phase in self.phases)

    @property
    def low_s(self) -> float:
        """The lower end of their interval: what is wrong with one phase is wrong with all."""
        return sum(phase.count * phase.low_s for phase in self.phases)

    @property
    def high_s(self) -> float:
        """The upper end."""
        return sum(phase.count * phase.high_s for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of all fields."""
        asked = ("model", "device", "backend", "dtype", "workload", "tensor_parallel")
        names = ("task", "parameters", "weight_bytes", "latency_s", "low_s", "high_s", "interval")
        return {
            **{name: getattr(self, name) for name in (*asked, *names)},
            "level": LEVEL,
            "sources": list(self.sources),
            "phases": [phase.to_json() for phase in self.phases],
            "changes": [each.to_json() for each in self.changes],
            "refused": dict(self.refused),
            "notes": list(self.notes),
        }
