"""The record of a tuning: everything that `result.json` holds, and the report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from autotune.core.errors import UsageError
from autotune.core.forms import Form
from autotune.core.quantities import QUALITY, parse_quantity
from autotune.core.types import Fingerprint, Workload
from autotune.results.codec import Record, encode, json_key
from autotune.results.layer_timings import LayerTimings
from autotune.results.measured import Measured
from autotune.results.measured_points import MeasuredPoint, OtherShape
from autotune.results.parts import (
    BudgetUse,
    BuildPaths,
    Calibration,
    Cost,
    CurvePoint,
    LeftOut,
    PhaseRecord,
    Quality,
    RoundRecord,
    SiteRecord,
    Sizes,
    SolverRecord,
    Staircase,
    StaircasePoint,
    UniformPoint,
)
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.verdict import Verdict, latency_limit

__all__ = [
    "BudgetUse",
    "BuildPaths",
    "Calibration",
    "Cost",
    "CurvePoint",
    "LayerTimings",
    "LeftOut",
    "MeasuredPoint",
    "OtherShape",
    "PhaseRecord",
    "Quality",
    "RoundRecord",
    "SiteRecord",
    "Sizes",
    "SolverRecord",
    "Staircase",
    "StaircasePoint",
    "TuneRecord",
    "UniformPoint",
]
# Left-out layers stand among the sites in JSON; only sites that were considered have this key.
_CONSIDERED = "group"
_BUILDS = "artefacts"


@dataclass(frozen=True, kw_only=True)
class TuneRecord(Record):
    """A finished tuning. Latencies are in seconds and cover the whole workload.

    `measured_…` are None where the device was not present: everything about latency is then
    predicted from the tables that `predicted_from` names. `budget` holds the limits as they were
    given, by resource, and the quality floor; `budgets` are the limits' absolute values and the
    predicted use.
    `allow_quality_loss` says that a lost quality is no failure. `predicted_…` were computed before
    anything was built. `stored_bytes` are weights on disk, `computed_bytes` weights in memory at
    run time. `builds` and `phases` have one entry for each phase of the workload, `pareto` is empty
    without a latency budget, `layer_timings` is None where no layer was measured and in older
    results, `files` maps each file that was handed out to its sha256.

    `dtype` is that of the weights. Where the runtime is told to run the network in another one,
    that is `runtime_dtype`, and `device.dtype`; `runtime_options` are the options that the runtime
    must be given to do what was measured. `compared` are the plan that is handed out and the
    reference points that were measured in the same run, `front` the plans that `--front` asked
    for; empty where none were. `dense_latencies_s` are those of the dense model by backend (and the
    dtype that it was told to use), where `--backend auto` compared them, `cpu_features` the
    instructions of the processor that was tuned for. `other_shapes` are brief measurements of what
    is handed out at other shapes and with several streams; empty where none were asked for.
    """

    derived = ("within_budget", "quality_verdict", "plan")
    model: str
    model_sha256: str
    task: str
    device: Fingerprint
    fingerprint: str
    backend: str
    dtype: str
    predicted_from: tuple[str, ...]
    workload: Workload
    budget: Mapping[str, str]
    verdict: Verdict
    allow_quality_loss: bool
    dense_latency_s: float
    rest_latency_s: float
    predicted_latency_s: float
    predicted_latency_low_s: float
    predicted_latency_high_s: float
    predicted_ratio: float
    measured_latency_s: float | None
    measured_ratio: float | None
    measured_ratio_low: float | None
    measured_ratio_high: float | None
    phases: tuple[PhaseRecord, ...] = field(metadata=json_key("passes"))
    quality: Quality
    parameters: Sizes
    stored_bytes: Sizes
    computed_bytes: Sizes
    flops: Sizes
    solver: SolverRecord
    budgets: Mapping[str, BudgetUse]
    rounds: tuple[RoundRecord, ...]
    pareto: tuple[CurvePoint, ...]
    uniform: tuple[UniformPoint, ...]
    builds: Mapping[str, BuildPaths] = field(metadata=json_key(_BUILDS))
    sites: tuple[SiteRecord, ...]
    left_out: tuple[LeftOut, ...]
    knobs: Mapping[str, float]
    calibration: Calibration
    cost: Cost
    staircases: tuple[Staircase, ...]
    layer_timings: LayerTimings | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    runtime_dtype: str | None = None
    runtime_options: Mapping[str, str] = field(default_factory=dict)
    compared: tuple[MeasuredPoint, ...] = ()
    front: tuple[MeasuredPoint, ...] = ()
    dense_latencies_s: Mapping[str, float] = field(default_factory=dict)
    cpu_features: tuple[str, ...] = ()
    other_shapes: tuple[OtherShape, ...] = ()

    @property
    def within_budget(self) -> bool | None:
        """True, False, or None where the measurement does not decide."""
        return self.verdict.within_budget

    @property
    def exit_code(self) -> int:
        """1 where the quality is lost, unless that was allowed; else that of the verdict."""
        return Verdict.MISSED.exit_code if self.quality_lost else self.verdict.exit_code

    @property
    def quality_verdict(self) -> QualityVerdict:
        """Whether the quality on held-out data is kept, reduced or lost."""
        return self.quality.verdict

    @property
    def quality_lost(self) -> bool:
        """Whether the quality is lost and that was not allowed."""
        return self.quality_verdict is QualityVerdict.LOST and not self.allow_quality_loss

    @property
    def plan(self) -> Mapping[str, Form]:
        """The form of every site and joint site that was considered."""
        return {site.name: site.form for site in self.sites}

    @property
    def factorized(self) -> tuple[SiteRecord, ...]:
        """The sites and joint sites that are not dense."""
        return tuple(site for site in self.sites if not site.form.is_dense)

    @property
    def changed(self) -> tuple[SiteRecord, ...]:
        """The sites and joint sites that are not as the dense model has them."""
        return tuple(site for site in self.sites if not site.form.is_unchanged)

    @property
    def is_dense(self) -> bool:
        """Whether what was handed out is the dense model, in its own dtype."""
        return not self.changed and self.runtime_dtype is None

    @property
    def measured(self) -> Measured | None:
        """What the final measurement found; None where the device was not present."""
        if self.measured_ratio is None:
            return None
        return Measured(passes=tuple(phase.timing for phase in self.phases))

    @property
    def ratio(self) -> float:
        """Compressed latency / dense latency: measured, else predicted."""
        return self.predicted_ratio if self.measured_ratio is None else self.measured_ratio

    @property
    def latency_s(self) -> float:
        """Seconds of the compressed model: measured, else predicted."""
        measured = self.measured_latency_s
        return self.predicted_latency_s if measured is None else measured

    @property
    def latency_budget(self) -> str | None:
        """The latency budget as it was given, such as 0.85x; None without one."""
        return self.budget.get("latency")

    @property
    def limit_ratio(self) -> float | None:
        """The largest ratio that the latency budget allows; None without such a budget."""
        return latency_limit(self.latency_budget, self.dense_latency_s)

    @property
    def quality_floor(self) -> str | None:
        """The quality floor as it was given, such as 0.99; None without one."""
        return self.budget.get(QUALITY)

    @property
    def keeps_floor(self) -> bool:
        """Whether the quality on held-out data keeps the floor; True without one."""
        text = self.quality_floor
        return text is None or self.quality.keeps(parse_quantity(text, QUALITY))

    def phase(self, name: str) -> PhaseRecord:
        """The phase of that name.

        Raises:
            KeyError: the workload has no such phase.
        """
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise KeyError(name)

    def check(self) -> None:
        """Refuse phases other than the workload's, and a dense latency that divides by zero.

        Raises:
            UsageError: names the field.
        """
        wanted, found = self.workload.passes, [(one.name, one.count) for one in self.phases]
        if sorted(found) != sorted(wanted.items()):
            raise UsageError(
                f"passes must be those of workload.phase {self.workload.phase}, "
                f"{_counts(wanted.items())}, got {_counts(found) or 'none'}"
            )
        unbuilt = sorted(set(wanted) - set(self.builds))
        if unbuilt and self.measured is not None:
            raise UsageError(f"{_BUILDS} must have the key {unbuilt[0]}, a phase that was measured")
        places = {f"passes[{i}].": one.dense_latency_s for i, one in enumerate(self.phases)}
        for place, seconds in {"": self.dense_latency_s, **places}.items():
            if not seconds > 0:
                raise UsageError(f"{place}dense_latency_s must be above 0, got {seconds}")

    def to_json(self) -> dict[str, Any]:
        """All keys of `result.json` but the schema version."""
        values: dict[str, Any] = encode(self)
        values["sites"] += values.pop("left_out")
        return values

    @classmethod
    def from_json(cls, values: object, where: str = "") -> Self:
        """The record back from `to_json`; see `autotune.results.codec.Record.from_json`."""
        if isinstance(values, dict) and isinstance(values.get("sites"), list):
            sites = values["sites"]
            left_out = [one for one in sites if not _is_considered(one)]
            considered = [one for one in sites if _is_considered(one)]
            values = {**values, "sites": considered, "left_out": left_out}
        return super().from_json(values, where)


def _counts(passes: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} with count {count}" for name, count in passes)


def _is_considered(site: object) -> bool:
    return isinstance(site, dict) and _CONSIDERED in site
