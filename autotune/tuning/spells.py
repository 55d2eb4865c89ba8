"""Intervals of a network's ratio that hold at any other time, on a host that has spells.

For seconds or minutes a shared host exchanges data between its cores more slowly, which adds
microseconds to every product. One measurement lies within one spell and cannot see it; a
compressed network has more products than the dense one in less time, so that its ratio changes
with the spell (benchmarks/results/2026-11-27-busy.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from autotune.core.forms import Form
from autotune.profiler.measure.intervals import NORMAL, widened
from autotune.results.measured import MeasuredPass

# Products of networks of a fraction of a millisecond are computed on one core, which waits for no
# other: more than this, a standard deviation relative to the ratio, was never seen.
_MOST_RELATIVE = 0.03


def at_any_time(
    timed: MeasuredPass, covered: Iterable[tuple[int, Form]], *, product_sd_s: float
) -> MeasuredPass:
    """The same phase with an interval for a measurement at any other time.

    Args:
        timed: The phase as it was measured at one time.
        covered: Of every site and joint site that covers the model's layers, its number of layers
            and its form.
        product_sd_s: Standard deviation between times of the seconds of one product
            (`Machine.product_sd_s`).
    """
    dense, compressed = _product_counts(covered)
    added = compressed - timed.ratio * dense
    spread = product_sd_s * abs(added) / timed.dense_latency_s
    low, high = widened(
        timed.ratio,
        (timed.ratio_low, timed.ratio_high),
        by=NORMAL * min(spread, _MOST_RELATIVE * timed.ratio),
    )
    return dataclasses.replace(timed, ratio_low=low, ratio_high=high)


def _product_counts(covered: Iterable[tuple[int, Form]]) -> tuple[int, int]:
    """Matrix products of the dense layers, and of the layers in their forms."""
    dense = compressed = 0
    for layers, form in covered:
        dense += layers
        compressed += layers + (0 if form.is_dense else 1)  # the down factor, which all share
    return dense, compressed
