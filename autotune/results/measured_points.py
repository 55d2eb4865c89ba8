"""Networks that were timed beside the dense one: plans of the run, and other shapes of one plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from autotune.core.forms import Form
from autotune.results.codec import Record
from autotune.results.measured import Measured, MeasuredPass


@dataclass(frozen=True, kw_only=True)
class _Timed(Record):
    """`passes` are the phases, timed alternately with those of the dense model."""

    derived: ClassVar[tuple[str, ...]] = ("ratio", "ratio_low", "ratio_high")
    passes: tuple[MeasuredPass, ...]

    @property
    def measured(self) -> Measured:
        """All phases together."""
        return Measured(passes=self.passes)

    @property
    def ratio(self) -> float:
        """Latency / dense latency."""
        return self.measured.ratio

    @property
    def ratio_low(self) -> float:
        """The lower end of its 95 % interval."""
        return self.measured.ratio_low

    @property
    def ratio_high(self) -> float:
        """The upper end of its 95 % interval."""
        return self.measured.ratio_high


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint(_Timed):
    """A plan that was built and measured in the run: what is handed out, or another one.

    `loss` is by how much the mean loss on the search data is above the dense model's, `quality` the
    figure on held-out data in the metric of the result, `forms` how many layers have which form
    apart from its rank, `plan` the forms of those that are not as the dense model has them.
    """

    name: str
    loss: float
    quality: float
    forms: Mapping[str, int]
    plan: Mapping[str, Form]
    handed_out: bool = False


@dataclass(frozen=True, kw_only=True)
class OtherShape(_Timed):
    """What is handed out beside the dense model, at another shape or with several streams.

    With `streams` latencies are seconds for one pass of each / their number, so that the throughput
    is `throughput_gain` times the dense model's.
    """

    derived = (*_Timed.derived, "throughput_gain")
    batch_size: int
    sequence_length: int
    streams: int

    @property
    def throughput_gain(self) -> float:
        """Throughput / dense throughput."""
        return 1 / self.ratio
