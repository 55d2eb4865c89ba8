"""Whether a result holds its latency budget."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """Met, missed, or undecided."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"

    @staticmethod
    def of(*, limit_ratio: float, ratio: float, ratio_low: float, ratio_high: float) -> Verdict:
        """From the interval of the ratio to dense."""
        del ratio
        if ratio_high <= limit_ratio:
            return Verdict.MET
        return Verdict.MISSED if ratio_low > limit_ratio else Verdict.UNDECIDED
