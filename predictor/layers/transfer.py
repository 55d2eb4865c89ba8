"""Intervals of what others will measure: another board, driver, library, clock or harness.

A table's own interval is of the same machine with the same software. How far measurements of one
device by different software are apart was found by leaving serving stacks, versions and harnesses
out (benchmarks/transfer_widths.py); the width for a device is the larger of what its own
environments and those of all other devices show. The quantile is above the nominal 90 %: there are
few environments, and at this one those that were left out are covered at 90 % on average.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.core.layer_columns import LayerColumns
from autotune.core.types import Interval
from autotune.predictor.base import ColumnPredictor, LatencyPredictor
from autotune.predictor.columns import EstimateColumns

TRANSFERS = Path(__file__).resolve().parent.parent / "data" / "transfer.csv"
# Upper ends of M: decode, small and large prefill, as ProductRegressor's classes.
SIZE_CLASSES = (16, 512)
QUANTILES = tuple(round(level, 2) for level in np.arange(0.02, 1.0, 0.02))
LEVEL = 0.92

Array = NDArray[np.float64]
Environment = tuple[str, str]
Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Half widths (log) of seconds and of ratios, by size class."""

    seconds: tuple[float, ...]
    ratio: tuple[float, ...]

    @staticmethod
    def of(device: str, *, without: Environment | None = None) -> Transfer:
        """For a device; `without` leaves an environment (device, name) out, to test it."""
        seconds, ratio = (
            tuple(
                _half_width(device, kind, size_class=number, without=without)
                for number in range(len(SIZE_CLASSES) + 1)
            )
            for kind in ("seconds", "ratio")
        )
        return Transfer(seconds=seconds, ratio=ratio)

    def half_widths(self, layers: LayerColumns) -> tuple[Array, Array]:
        """Of seconds and of ratios, (n,) each; a dense layer's ratio is 1 everywhere."""
        number = np.searchsorted(SIZE_CLASSES, layers.tokens)
        seconds, ratio = np.array(self.seconds)[number], np.array(self.ratio)[number]
        return seconds, np.where(layers.is_unchanged, 0.0, ratio)


class TransferredLatency(ColumnPredictor):
    """Another predictor's answers, with the interval of what the asker will measure."""

    interval: Interval = "transfer"

    def __init__(self, predictor: LatencyPredictor, transfer: Transfer) -> None:
        super().__init__()
        self._inner, self._transfer = predictor, transfer

    def answer_columns(self, layers: LayerColumns) -> EstimateColumns:
        """Seconds and ratios; both intervals hold what the other's tables miss as well."""
        found = self._inner.answer_columns(layers)
        seconds, ratio = self._transfer.half_widths(layers)
        value, low, high = (np.log(s) for s in (found.latency_s, found.low_s, found.high_s))
        of_ratio = np.maximum(found.ratio / found.ratio_low, found.ratio_high / found.ratio)
        return replace(
            found,
            low_s=np.exp(value - np.hypot(value - low, seconds)),
            high_s=np.exp(value + np.hypot(high - value, seconds)),
            ratio_half_width=np.hypot(np.log(of_ratio), ratio),
        )


def _half_width(device: str, kind: str, *, size_class: int, without: Environment | None) -> float:
    own: list[Row] = []
    others: list[Row] = []
    for row in _environments():
        chosen = row["of"] == kind and int(row["size_class"]) == size_class
        if chosen and (row["device"], row["environment"]) != without:
            (own if row["device"] == device else others).append(row)
    return max(_pooled(rows) for rows in (own, others) if rows)


def _pooled(rows: Sequence[Row]) -> float:
    """The quantile at `LEVEL` over all environments, each of which counts the same."""
    errors = [float(row[name]) for row in rows for name in row if name.startswith("q")]
    return float(np.quantile(errors, LEVEL))


@functools.cache
def _environments() -> list[Row]:
    """The rows of the file; pandas takes longer to import than a layer to price."""
    with TRANSFERS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
