"""A compressed network timed in turn with the dense one: each phase, and the whole workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.profiler.measure.timing import PairedTiming


@dataclass(frozen=True, kw_only=True)
class MeasuredPass:
    """One phase, "prefill" or "decode"; the workload runs it `count` times.

    Latencies are in seconds. `ratio` is the median over rounds of compressed / dense, with its
    95 % interval.
    """

    name: str
    count: int
    latency_s: float
    dense_latency_s: float
    ratio: float
    ratio_low: float
    ratio_high: float

    @staticmethod
    def of(name: str, timing: PairedTiming) -> MeasuredPass:
        """From dense and compressed timed in turn, in this order; run once a workload."""
        return MeasuredPass(
            name=name,
            count=1,
            dense_latency_s=timing.latencies_s[0],
            latency_s=timing.latencies_s[1],
            ratio=timing.ratios[1],
            ratio_low=timing.ratio_lows[1],
            ratio_high=timing.ratio_highs[1],
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The whole workload: the sum of its phases, each as often as it runs.

    Its ratio is the mean of the phases' ratios, weighted by their share of the dense latency. The
    ends of the interval are weighted in the same way, which is conservative: it covers errors of
    the phases that are fully correlated.
    """

    passes: tuple[MeasuredPass, ...]

    @property
    def latency_s(self) -> float:
        """Latency of the compressed network in seconds."""
        return sum(one.count * one.latency_s for one in self.passes)

    @property
    def dense_latency_s(self) -> float:
        """Latency of the dense network in seconds."""
        return sum(one.count * one.dense_latency_s for one in self.passes)

    @property
    def ratio(self) -> float:
        """Compressed latency / dense latency."""
        return self._over_passes([one.ratio for one in self.passes])

    @property
    def ratio_low(self) -> float:
        """Lower end of the ratio's interval."""
        return self._over_passes([one.ratio_low for one in self.passes])

    @property
    def ratio_high(self) -> float:
        """Upper end of the ratio's interval."""
        return self._over_passes([one.ratio_high for one in self.passes])

    def _over_passes(self, ratios: Sequence[float]) -> float:
        dense = [one.count * one.dense_latency_s for one in self.passes]
        return sum(ratio * s for ratio, s in zip(ratios, dense, strict=True)) / sum(dense)
