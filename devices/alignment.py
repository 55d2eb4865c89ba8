"""Candidate ranks that the device's kernels like."""

from __future__ import annotations

from autotune.devices.specs import DeviceSpec
from autotune.types import break_even_rank


def aligned_ranks(spec: DeviceSpec, in_features: int, out_features: int, dtype: str) -> list[int]:
    """Multiples of the device's alignment from one step up to below break-even.

    Empty when even the smallest aligned rank would hold more parameters than the dense layer.
    """
    step = spec.rank_multiple(dtype)
    return list(range(step, break_even_rank(in_features, out_features) + 1, step))


def coarse_grid(ranks: list[int], points: int) -> list[int]:
    """At most `points` of `ranks`, evenly spread, the first and last always among them."""
    if len(ranks) <= points:
        return ranks
    last = len(ranks) - 1
    return sorted({ranks[round(i * last / (points - 1))] for i in range(points)})
