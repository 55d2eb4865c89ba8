"""The parts of a tuning's record: sizes, quality, costs, and what the solver and rounds found."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.core.forms import Form
from autotune.core.quantities import Quantity
from autotune.core.types import Source
from autotune.results.codec import Record
from autotune.results.measured import MeasuredPass
from autotune.results.quality_verdict import LOSS, QualityVerdict, limits_text
from autotune.results.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """One amount (parameters, bytes or FLOPs) of the whole model."""

    dense: int
    compressed: int


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The figure of the model on held-out data, before and after compression.

    `protocol` describes how it was computed, such as the window of a perplexity.
    `neighbour_overlap` is the share of the ten nearest neighbours of each held-out embedding that
    both models agree on; None where the model makes no embeddings, and in older results.
    """

    metric: str
    dense: float
    compressed: float
    higher_is_better: bool
    protocol: str
    neighbour_overlap: float | None = None

    @property
    def verdict(self) -> QualityVerdict:
        """Whether the compressed model is still of use."""
        return QualityVerdict.of(
            self.metric,
            dense=self.dense,
            compressed=self.compressed,
            higher_is_better=self.higher_is_better,
        )

    def keeps(self, floor: Quantity) -> bool:
        """Whether the compressed model keeps a quality floor.

        A relative one is a factor on the dense model's figure. A figure that overflows, so that
        losses are shown in its place, keeps none.
        """
        if self.metric == LOSS:
            return False
        limit = floor.resolve(self.dense)
        return self.compressed >= limit if self.higher_is_better else self.compressed <= limit

    @property
    def limit_text(self) -> str:
        """Beyond what the quality is lost, in words."""
        return limits_text(self.metric, higher_is_better=self.higher_is_better)


@dataclass(frozen=True, kw_only=True)
class BudgetUse:
    """Limit and predicted use of one resource, in its unit (seconds, bytes, counts).

    `binding`: less than 1 % of the limit is left.
    """

    limit: float
    used: float
    binding: bool


@dataclass(frozen=True, kw_only=True)
class SolverRecord:
    """Which parts chose the plan, and the losses they report.

    `loss` is the objective with the outer knobs, `table_loss` that of the error table without them.
    `certified_gap` is (loss - lower bound) / loss, None where no lower bound was proven.
    """

    name: str
    loss: float
    table_loss: float
    lower_bound: float
    certified_gap: float | None
    metric: str
    factorizer: str
    allocator: str
    storage: str


@dataclass(frozen=True, kw_only=True)
class PhaseRecord:
    """One phase of the workload, "prefill" or "decode", which runs `count` times.

    Latencies and ratios are measured where the tuning measured, else predicted (with the 90 %
    interval of the prediction). `predicted_ratio` was predicted before anything was built. The last
    four say how calm the measurement was (`MeasuredPass`).
    """

    name: str
    count: int
    latency_s: float
    dense_latency_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    predicted_ratio: float
    windows: int = 0
    disturbed_windows: int = 0
    waiting: float = 0.0
    converged: bool = True

    @property
    def timing(self) -> MeasuredPass:
        """The phase without its prediction."""
        return MeasuredPass(
            name=self.name,
            count=self.count,
            latency_s=self.latency_s,
            dense_latency_s=self.dense_latency_s,
            ratio=self.ratio,
            ratio_low=self.ratio_low,
            ratio_high=self.ratio_high,
            windows=self.windows,
            disturbed_windows=self.disturbed_windows,
            waiting=self.waiting,
            converged=self.converged,
        )


@dataclass(frozen=True, kw_only=True)
class RoundRecord(Record):
    """One round of the closed loop; measured values are None where nothing was measured.

    `corrections` are the factors on the predicted saving of every phase that the round began with.
    The second look is the fresh measurement of a round that seemed to hold the budget; the verdict
    is by it, where there was one.
    """

    derived = ("within_budget",)
    predicted_ratio: float
    measured_ratio: float | None
    measured_ratio_low: float | None
    measured_ratio_high: float | None
    corrections: tuple[float, ...]
    loss: float
    verdict: Verdict
    second_look_ratio: float | None = None
    second_look_ratio_low: float | None = None
    second_look_ratio_high: float | None = None

    @property
    def measured(self) -> tuple[float, float, float] | None:
        """Measured ratio and the ends of its interval; None where nothing was measured."""
        ratio, low, high = self.measured_ratio, self.measured_ratio_low, self.measured_ratio_high
        if ratio is None or low is None or high is None:
            return None
        return ratio, low, high

    @property
    def within_budget(self) -> bool | None:
        """True, False, or None where the measurement does not decide."""
        return self.verdict.within_budget


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A plan on the Pareto front: latency / dense latency and loss, both predicted."""

    ratio: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class UniformPoint:
    """A plan that keeps one share of the parameters at every site."""

    keep_ratio: float
    ratio: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class StaircasePoint(Record):
    """Latency of one layer shape in one form, with its interval; `ratio` is to the dense layer."""

    derived = ("rank",)
    form: Form
    latency_s: float
    low_s: float
    high_s: float
    ratio: float
    source: Source

    @property
    def rank(self) -> int | None:
        """Rank of `form`, None where it is dense; derived, for readers that know no forms."""
        return self.form.rank_or_none


@dataclass(frozen=True, kw_only=True)
class Staircase:
    """Latency against rank of one layer shape; `parts` are the widths of a joint site."""

    tokens: int
    in_features: int
    out_features: int
    parts: tuple[int, ...]
    dense_latency_s: float
    points: tuple[StaircasePoint, ...]


@dataclass(frozen=True, kw_only=True)
class BuildPaths:
    """What `bench` times again in one phase: paths relative to the run folder."""

    dense: str
    compressed: str
    inputs: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration data: where they come from, their sha256, and the plan that chose them."""

    origin: str
    sha256: str
    plan: CalibrationPlan


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the tuning took: wall-clock seconds and peak memory of its processes."""

    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class SiteRecord(Record):
    """A site or joint site that was considered, with the form that was chosen for it.

    `layers` are the modules it stands for (several for a joint site) and `tokens` the rows that
    they see in the prefill. `keep_ratio` is parameters kept / dense parameters; `error` is the
    loss that the error table gives the form (0 where dense). `source` says where the predicted
    latency comes from, `measured_latency_s` is the time inside the whole network where the backend
    reports it.
    """

    derived = ("rank",)
    name: str
    layers: tuple[str, ...]
    group: str
    block: int | None
    tokens: int
    in_features: int
    out_features: int
    form: Form
    keep_ratio: float
    dense_latency_s: float
    predicted_latency_s: float
    predicted_low_s: float
    predicted_high_s: float
    source: Source
    measured_latency_s: float | None
    error: float
    reason: str

    @property
    def layer_count(self) -> int:
        """Number of modules it stands for."""
        return len(self.layers)

    @property
    def rank(self) -> int | None:
        """Rank of `form`, None where it is dense; derived, for readers that know no forms."""
        return self.form.rank_or_none


@dataclass(frozen=True, kw_only=True)
class LeftOut(Record):
    """A layer that was not considered, with the reason."""

    derived = ("rank",)
    name: str
    reason: str

    @property
    def rank(self) -> None:
        """Always None, as layers that are left out stay dense."""
        return
