"""Between measured ranks of one shape: linear in log-utilisation over log-rank.

Utilisation = roofline / latency varies slowly where latency itself spans decades, so it is what
is interpolated: 3–6 % held-out error where raw features gave 5–7 % (docs/predictor.md).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline

# A layer in some rank, and its seconds.
Point: TypeAlias = tuple[LayerShape, float]
# A rank, and its log-utilisation.
End: TypeAlias = tuple[int, float]


class Curve:
    """The measured ranks of one layer, on every side of the cliff by itself.

    Ranks on different sides (`cliff` is the multiple that fast kernels need) are no neighbours:
    rank 1025 may take eight times as long as rank 1024.
    """

    def __init__(self, known: Iterable[Point], *, cliff: int = 1) -> None:
        """`known`: shapes of one layer and their seconds."""
        self._cliff = cliff
        self._sides: dict[int, list[Point]] = {}
        for shape, seconds in sorted(known, key=lambda entry: entry[0].rank):
            side = side_of_cliff(shape.rank, cliff)
            self._sides.setdefault(side, []).append((shape, seconds))

    def enclosing(self, shape: LayerShape) -> tuple[Point, Point] | None:
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

    def leave_one_out_errors(self, roofline: Roofline) -> list[float]:
        """|log(interpolated / measured)| of every entry that has one on both sides, left out."""
        return [
            abs(at - _log_utilisation(rank, (low, high)))
            for known in self._sides.values()
            for low, (rank, at), high in _neighbours([_end(point, roofline) for point in known])
        ]


def interpolate(shape: LayerShape, curve: Curve, *, roofline: Roofline) -> float | None:
    """Seconds of `shape` between the ranks of its layer; None where none enclose it."""
    found = curve.enclosing(shape)
    if found is None:
        return None
    (low, seconds), (high, _) = found
    if low.rank == high.rank:
        return seconds
    ends = _end(found[0], roofline), _end(found[1], roofline)
    return roofline.latency_s(shape) / math.exp(_log_utilisation(shape.rank, ends))


def _end(point: Point, roofline: Roofline) -> End:
    shape, seconds = point
    return shape.rank, math.log(roofline.latency_s(shape) / seconds)


def _neighbours(ends: Sequence[End]) -> Iterator[tuple[End, End, End]]:
    """Every end that has one on both sides, between these."""
    return zip(ends, ends[1:], ends[2:], strict=False)


def _log_utilisation(rank: int, ends: tuple[End, End]) -> float:
    """That of `rank`, by those of two ranks that enclose it."""
    low, high = ends
    weight = math.log(rank / low[0]) / math.log(high[0] / low[0])
    return (1 - weight) * low[1] + weight * high[1]


def side_of_cliff(rank: int, cliff: int) -> int:
    """The power of two that divides the rank, as far as it matters."""
    return min(rank & -rank, cliff)
