"""Between measured ranks of one shape: linear in log-utilisation over log-rank.

Utilisation = roofline / latency varies slowly where latency itself spans decades, so it is what
is interpolated: 3–6 % held-out error where raw features gave 5–7 % (docs/predictor.md).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline


class Curve:
    """The measured ranks of one layer, on every side of the cliff by itself.

    Ranks on different sides (`cliff` is the multiple that fast kernels need) are no neighbours:
    rank 1025 may take eight times as long as rank 1024.
    """

    def __init__(self, known: Iterable[tuple[LayerShape, float]], *, cliff: int = 1) -> None:
        """`known`: shapes of one layer and their seconds."""
        self._cliff = cliff
        self._sides: dict[int, list[tuple[LayerShape, float]]] = {}
        for shape, seconds in sorted(known, key=lambda entry: entry[0].rank):
            side = side_of_cliff(shape.rank, cliff)
            self._sides.setdefault(side, []).append((shape, seconds))

    def enclosing(
        self, shape: LayerShape
    ) -> tuple[tuple[LayerShape, float], tuple[LayerShape, float]] | None:
        """The entries just below and above the shape's rank; twice the same at a known one.

        None outside of the ranks on the shape's side of the cliff: there is nothing between.
        """
        rank = shape.rank
        known = self._sides.get(side_of_cliff(rank, self._cliff), [])
        if not rank or not known or not known[0][0].rank <= rank <= known[-1][0].rank:
            return None
        right = bisect.bisect_left(known, rank, key=lambda entry: entry[0].rank)
        left = right if known[right][0].rank == rank else right - 1
        return known[left], known[right]


def interpolate(shape: LayerShape, curve: Curve, *, roofline: Roofline) -> float | None:
    """Seconds of `shape` between the ranks of its layer; None where none enclose it."""
    found = curve.enclosing(shape)
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


def side_of_cliff(rank: int, cliff: int) -> int:
    """The power of two that divides the rank, as far as it matters."""
    return min(rank & -rank, cliff)


def leave_one_out_errors(
    known: Sequence[tuple[LayerShape, float]], roofline: Roofline, *, cliff: int = 1
) -> list[float]:
    """|log(interpolated / measured)| of every inner point of `known`, sorted by rank, left out."""
    errors = []
    for i in range(1, len(known) - 1):
        rest = [*known[:i], *known[i + 1 :]]
        guess = interpolate(known[i][0], Curve(rest, cliff=cliff), roofline=roofline)
        if guess is not None:
            errors.append(abs(math.log(guess / known[i][1])))
    return errors
