"""Estimates of many layers as columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import NotPricedError
from autotune.core.layer_columns import Index, Mask
from autotune.core.types import Estimate

Array = NDArray[np.float64]
Answer = Estimate | NotPricedError
# As wide as the longest name of a source.
SOURCE = "U12"
NUMBERS = ("latency_s", "low_s", "high_s", "ratio", "ratio_half_width")
# In the place of a refused answer.
_NONE = Estimate(
    latency_s=math.nan,
    low_s=math.nan,
    high_s=math.nan,
    ratio=math.nan,
    source="",  # type: ignore[arg-type]
)


@dataclass(frozen=True, kw_only=True)
class EstimateColumns:
    """Estimates of n layers, (n,) each as `Estimate` has it; `refused` has those without, by row.

    A refused row has NaN in all numbers and no source. A `ratio_half_width` of NaN stands for None.
    """

    latency_s: Array
    low_s: Array
    high_s: Array
    ratio: Array
    ratio_half_width: Array
    source: NDArray[np.str_]
    refused: Mapping[int, NotPricedError]

    @staticmethod
    def of(answers: Sequence[Answer]) -> EstimateColumns:
        """The columns of answers."""
        found = [a if isinstance(a, Estimate) else _NONE for a in answers]
        numbers: Any = {
            name: np.array([getattr(each, name) for each in found], dtype=np.float64)
            for name in NUMBERS
        }
        return EstimateColumns(
            **numbers,
            source=np.array([each.source for each in found], dtype=SOURCE),
            refused={i: a for i, a in enumerate(answers) if not isinstance(a, Estimate)},
        )

    @staticmethod
    def merged(
        count: int,
        parts: Iterable[tuple[Index, EstimateColumns]],
        *,
        refused: Mapping[int, NotPricedError] | None = None,
    ) -> EstimateColumns:
        """Of `count` rows: parts with the rows that they are of, and what is refused besides."""
        numbers: Any = {name: np.full(count, np.nan) for name in NUMBERS}
        source, found = np.zeros(count, dtype=SOURCE), dict(refused or {})
        for rows, part in parts:
            for name in NUMBERS:
                numbers[name][rows] = getattr(part, name)
            source[rows] = part.source
            found |= {int(rows[row]): error for row, error in part.refused.items()}
        return EstimateColumns(**numbers, source=source, refused=found)

    def __len__(self) -> int:
        return len(self.source)

    def answers(self) -> list[Answer]:
        """Each by itself."""
        columns = {name: getattr(self, name).tolist() for name in (*NUMBERS, "source")}
        columns["ratio_half_width"] = [
            None if math.isnan(width) else width for width in columns["ratio_half_width"]
        ]
        return [
            self.refused[row]
            if row in self.refused
            else Estimate(**dict(zip(columns, values, strict=True)))
            for row, values in enumerate(zip(*columns.values(), strict=True))
        ]

    def rows(self, chosen: Mask | Index) -> EstimateColumns:
        """Some of the rows."""
        numbers: Any = {name: getattr(self, name)[chosen] for name in NUMBERS}
        old = np.arange(len(self))[chosen] if self.refused else ()
        return EstimateColumns(
            **numbers,
            source=self.source[chosen],
            refused={
                new: self.refused[int(row)]
                for new, row in enumerate(old)
                if int(row) in self.refused
            },
        )

    def without(self, refused: Mapping[int, NotPricedError]) -> EstimateColumns:
        """The same with these rows refused."""
        if not refused:
            return self
        rest = np.setdiff1d(np.arange(len(self)), [*refused])
        return EstimateColumns.merged(len(self), [(rest, self.rows(rest))], refused=refused)

    @cached_property
    def ratio_low(self) -> Array:
        """Lower ends of the ratios' intervals."""
        known = self.ratio * np.exp(-self.ratio_half_width)
        return np.where(
            np.isnan(self.ratio_half_width), self.ratio * self.low_s / self.latency_s, known
        )

    @cached_property
    def ratio_high(self) -> Array:
        """Upper ends of the ratios' intervals."""
        known = self.ratio * np.exp(self.ratio_half_width)
        return np.where(
            np.isnan(self.ratio_half_width), self.ratio * self.high_s / self.latency_s, known
        )

    @property
    def log_half_width(self) -> Array:
        """Half the widths of the seconds' intervals, in log."""
        half: Array = np.log(self.high_s / self.low_s) / 2
        return half
