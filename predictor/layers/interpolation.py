"""Between measured ranks of one shape: linear in log-utilisation over log-rank.

Utilisation = roofline / latency varies slowly where latency itself spans decades, so it is what
is interpolated: 3–6 % held-out error where raw features gave 5–7 % (docs/predictor.md).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline


def interpolate(
    shape: LayerShape,
    known: Sequence[tuple[LayerShape, float]],
    *,
    roofline: Roofline,
    cliff: int = 1,
) -> float | None:
    """Seconds of `shape` from `known` (shape, seconds) of the same layer, sorted by rank.

    None outside of the measured ranks: there is nothing to interpolate between. Ranks on different
    sides of a cliff (`cliff` is the multiple that fast kernels need) are no neighbours: rank 1025
    may take eight times as long as rank 1024.
    """
    found = enclosing(shape, known, cliff=cliff)
    if found is None:
        return None
    (low, low_s), (high, high_s) = found
    if low == high:
        return low_s
    weight = math.log(shape.rank / low.rank) / math.log(high.rank / low.rank)
    utilisation = (1 - weight) * math.log(roofline.latency_s(low) / low_s) + weight * math.log(
        roofline.latency_s(high) / high_s
    )
    return roofline.latency_s(shape) / math.exp(utilisation)


def enclosing(
    shape: LayerShape, known: Sequence[tuple[LayerShape, float]], *, cliff: int = 1
) -> tuple[tuple[LayerShape, float], tuple[LayerShape, float]] | None:
    """The entries of `known` just below and above the shape's rank; twice the same at a known one.

    None outside of the ranks on the shape's side of the cliff.
    """
    rank = shape.rank
    side = side_of_cliff(rank, cliff)
    known = [entry for entry in known if side_of_cliff(entry[0].rank, cliff) == side]
    ranks = [s.rank for s, _ in known]
    if not rank or not ranks or not ranks[0] <= rank <= ranks[-1]:
        return None
    right = bisect.bisect_left(ranks, rank)
    left = right if ranks[right] == rank else right - 1
    return known[left], known[right]


def side_of_cliff(rank: int, cliff: int) -> int:
    """The power of two that divides the rank, as far as it matters."""
    return min(rank & -rank, cliff)


def leave_one_out_errors(
    known: Sequence[tuple[LayerShape, float]], roofline: Roofline, *, cliff: int = 1
) -> list[float]:
    """|log(interpolated / measured)| of every inner point, each left out in turn."""
    errors = []
    for i in range(1, len(known) - 1):
        rest = [*known[:i], *known[i + 1 :]]
        guess = interpolate(known[i][0], rest, roofline=roofline, cliff=cliff)
        if guess is not None:
            errors.append(abs(math.log(guess / known[i][1])))
    return errors
