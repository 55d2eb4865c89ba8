"""Candidate ranks that the device's kernels like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from autotune.core.forms import NATIVE, PIVOTED, PLAIN, Form, low_rank
from autotune.core.layers import break_even_rank
from autotune.devices.specs import DeviceSpec

Each = TypeVar("Each", int, Form)


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


def saving_forms(
    step: int,
    *,
    in_features: int,
    out_features: int,
    structures: Sequence[str] = (PLAIN,),
    precisions: Sequence[str] = (NATIVE,),
) -> list[Form]:
    """Pairs of ranks that are multiples of `step` with fewer parameters than the layer, sorted.

    A pivoted pair saves at every rank below the full one. In another precision than the native one
    the dense layer is a form too, and pairs are plain.
    """
    forms: list[Form] = []
    plain = saving_ranks(step, in_features=in_features, out_features=out_features)
    for precision in precisions:
        if precision != NATIVE:
            forms += [Form(precision=precision), *(low_rank(r, precision=precision) for r in plain)]
    if PLAIN in structures:
        forms += [low_rank(rank) for rank in plain]
    if PIVOTED in structures:
        below_full = range(step, min(in_features, out_features), step)
        forms += [low_rank(rank, PIVOTED) for rank in below_full]
    return sorted(forms)


def coarse_grid(ranks: list[Each], points: int) -> list[Each]:
    """At most `points` of ascending `ranks`, evenly spread, the first and last among them."""
    if len(ranks) <= points:
        return ranks
    last = len(ranks) - 1
    return [ranks[i] for i in sorted({round(i * last / (points - 1)) for i in range(points)})]
