"""The figures of a tuning that the service keeps with the job, without sites and curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from autotune.core.types import Workload
from autotune.results.codec import Record
from autotune.results.parts import Cost, Quality, Sizes
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.upgrade import upgrade_summary
from autotune.results.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class TuneSummary(Record):
    """The fields of a `TuneRecord` that a list of jobs shows; they mean the same there."""

    derived = ("within_budget", "quality_verdict")
    model: str
    backend: str
    dtype: str
    budget: Mapping[str, str]
    workload: Workload
    verdict: Verdict
    allow_quality_loss: bool
    measured_ratio: float | None
    measured_ratio_low: float | None
    measured_ratio_high: float | None
    predicted_ratio: float
    measured_latency_s: float | None
    predicted_latency_s: float
    dense_latency_s: float
    quality: Quality
    parameters: Sizes
    stored_bytes: Sizes
    cost: Cost

    @property
    def within_budget(self) -> bool | None:
        """True, False, or None where the measurement does not decide."""
        return self.verdict.within_budget

    @property
    def quality_verdict(self) -> QualityVerdict:
        """Whether the quality on held-out data is kept, reduced or lost."""
        return self.quality.verdict

    @property
    def quality_lost(self) -> bool:
        """Whether the quality is lost and that was not allowed."""
        return self.quality_verdict is QualityVerdict.LOST and not self.allow_quality_loss

    @property
    def ratio(self) -> float:
        """Compressed latency / dense latency: measured, else predicted."""
        return self.predicted_ratio if self.measured_ratio is None else self.measured_ratio

    @classmethod
    def of_result(cls, values: Mapping[str, Any]) -> Self:
        """The summary of a whole result as `autotune tune --format json` prints it.

        Raises:
            UsageError: keys are missing, or values are of another type.
        """
        names = {*(field.name for field in fields(cls)), *cls.derived}
        return cls.from_json({key: values[key] for key in names if key in values})

    @classmethod
    def of_job(cls, values: Mapping[str, Any]) -> Self | None:
        """The summary as a job holds it; None where a job holds something else.

        Summaries of older versions lack verdicts; they are added.
        """
        if "predicted_ratio" not in values:
            return None
        return cls.from_json(upgrade_summary(values))
