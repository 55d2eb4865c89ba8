"""Candidate ranks that the device's kernels like."""

from __future__ import annotations

from autotune.core.layers import break_even_rank
from autotune.devices.specs import DeviceSpec


def aligned_ranks(
    spec: DeviceSpec, *, in_features: int, out_features: int, dtype: str
) -> list[int]:
    """Multiples of the device's alignment whose factors hold fewer parameters than the layer.

    Empty when even the smallest aligned rank saves nothing.
    """
    return saving_ranks(
        spec.rank_multiple(dtype), in_features=in_features, out_features=out_features
    )


def saving_ranks(step: int, *, in_features: int, out_features: int) -> list[int]:
    """Multiples of `step` whose factors hold fewer parameters than the layer."""
    limit = break_even_rank(in_features, out_features)
    width = in_features + out_features
    return [r for r in range(step, limit + 1, step) if r * width < in_features * out_features]


def coarse_grid(ranks: list[int], points: int) -> list[int]:
    """At most `points` of `ranks`, evenly spread, the first and last always among them."""
    if len(ranks) <= points:
        return ranks
    last = len(ranks) - 1
    return sorted({ranks[round(i * last / (points - 1))] for i in range(points)})
