"""What `bench` measures of a finished tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from autotune.results.codec import Record, json_key
from autotune.results.measured import MeasuredPass
from autotune.results.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class BenchRecord(Record):
    """A new measurement of a finished tuning, alternately with its dense model.

    Ratios are to the dense latency of this measurement; `tuned_ratio` is the one of the tuning, and
    `budget_ratio` the largest that the budget allows (1 without a latency budget).
    """

    derived = ("within_budget",)
    folder: str
    latency_s: float
    dense_latency_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    phases: tuple[MeasuredPass, ...] = field(metadata=json_key("passes"))
    tuned_ratio: float
    budget_ratio: float
    verdict: Verdict

    @property
    def within_budget(self) -> bool | None:
        """True, False, or None where the measurement does not decide."""
        return self.verdict.within_budget
