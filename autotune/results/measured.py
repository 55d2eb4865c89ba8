"""A compressed network timed alternately with the dense one: each phase, and the whole workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.profiler.measure.intervals import pooled, widened
from autotune.profiler.measure.timing import PairedTiming


@dataclass(frozen=True, kw_only=True)
class MeasuredPass:
    """One phase, "prefill" or "decode"; the workload runs it `count` times.

    Latencies are in seconds. `ratio` is that of compressed / dense, round by round, with its 95 %
    interval. `disturbed_windows` of all `windows` were not calm, `waiting` is the share of the
    other windows' time in which the process waited for cores; not `converged`: the time limit came
    before the interval was as narrow as requested.
    """

    name: str
    count: int
    latency_s: float
    dense_latency_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    windows: int = 0
    disturbed_windows: int = 0
    waiting: float = 0.0
    converged: bool = True

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
            windows=timing.windows,
            disturbed_windows=timing.disturbed_windows,
            waiting=timing.waiting,
            converged=timing.converged,
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

    @property
    def windows(self) -> int:
        """Windows of rounds, of all phases."""
        return sum(one.windows for one in self.passes)

    @property
    def disturbed_windows(self) -> int:
        """Those of them that were not calm."""
        return sum(one.disturbed_windows for one in self.passes)

    def _over_passes(self, ratios: Sequence[float]) -> float:
        dense = [one.count * one.dense_latency_s for one in self.passes]
        return sum(ratio * s for ratio, s in zip(ratios, dense, strict=True)) / sum(dense)


def pooled_looks(looks: Sequence[Measured]) -> Measured:
    """Several measurements of one network as one; the narrowest gives what cannot be averaged."""
    if len(looks) == 1:
        return looks[0]
    by_phase = zip(*(look.passes for look in looks), strict=True)
    return Measured(passes=tuple(_pooled_pass(timed) for timed in by_phase))


def _pooled_pass(timed: Sequence[MeasuredPass]) -> MeasuredPass:
    halves = [max((one.ratio_high - one.ratio_low) / 2, 1e-9) for one in timed]
    ratio, half = pooled([one.ratio for one in timed], halves)
    low, high = widened(ratio, (ratio, ratio), by=half)
    narrowest = timed[halves.index(min(halves))]
    return replace(
        narrowest,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        latency_s=ratio * narrowest.dense_latency_s,
        windows=sum(one.windows for one in timed),
        disturbed_windows=sum(one.disturbed_windows for one in timed),
    )
