"""Points whose timing did not settle, weighed against the staircase that they belong to.

A layer's latency varies smoothly with the rank, apart from cliffs: from one rank to the next its
log-utilisation (roofline / latency) takes a random step, whose variance grows with the distance in
log-rank. That is the process under which `interpolation.interpolate` is the best guess. Here every
point is known with the variance of its recorded interval, so the same process tells what all other
points of a staircase say about one of them (leave-one-out, in closed form: Rasmussen and Williams,
Gaussian Processes for Machine Learning, eq. 5.12). An unsettled point is then the mean of its own
value and of that, weighted by their precisions.

A point that contradicts the others by more than its interval allows has an interval that is too
narrow: its variance becomes what the contradiction shows, the worst point first, so that one wild
point does not discredit its neighbours. A settled point loses its standing only if it contradicts
them grossly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.predictor.layers.interpolation import side_of_cliff
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.profiler.database.records import Measurement

Array = NDArray[np.float64]
_NORMAL_90, _NORMAL_95 = 1.645, 1.96
_STUDENT_90 = 2.13  # four degrees of freedom: disturbance has heavy tails
# What an interval leaves out: two repetitions of a timing differ by this much at least (log).
_FLOOR = 0.005
_UNSETTLED_FLOOR = 0.02
# Standard deviation of a step, for a distance of 1 in log-rank: 0.07 for the settled points of
# CPUs, 0.18 for those of the shipped H200. Taken where fewer than nine steps can be observed.
_USUAL_RATE = 0.15
# Deviations beyond which an unsettled point's interval is taken as too narrow; and beyond which a
# settled point does not stand, if it is also so much faster than both of its neighbours.
_DOUBT = 1.5
_GROSS, _GROSS_FACTOR = 5.0, 1.25


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The points of one staircase by rising rank, (n,) each.

    `ratios` are latency recovery, with the `half_widths` of their logarithms' 95 % intervals, and
    `values` log-utilisations up to a constant.
    """

    ranks: Array
    ratios: Array
    values: Array
    half_widths: Array
    settled: NDArray[np.bool_]

    @property
    def variances(self) -> Array:
        """Of the points by their own intervals."""
        floor = np.where(self.settled, _FLOOR, _UNSETTLED_FLOOR)
        found: Array = (self.half_widths / _NORMAL_95) ** 2 + floor**2
        return found


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """What is known of a point that has no standing of its own: value and 90 % half width."""

    value: float
    half_width: float


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Latency recovery and the ends of its interval."""

    value: float
    low: float
    high: float

    @staticmethod
    def measured(row: Measurement) -> Ratio:
        """As it was measured, with its 95 % interval."""
        low, high = min(row.ratio_low, row.ratio), max(row.ratio_high, row.ratio)
        return Ratio(value=row.ratio, low=low, high=high)


def weigh_unsettled(
    rows: Iterable[Measurement], roofline: Roofline, *, cliff: int = 1
) -> dict[LayerShape, Ratio]:
    """The ratios, with 90 % intervals, of those of `rows` that do not stand as measured.

    Only ranks on one side of a cliff say something about each other (`interpolate`).
    """
    staircases: dict[tuple[LayerShape, str, int], list[Measurement]] = {}
    for row in rows:
        form = row.shape.form
        if not form.is_unchanged:  # the dense layer's ratio is 1 by definition
            # A dense layer in another precision is on no staircase: nothing else speaks of it.
            side = side_of_cliff(form.rank, cliff) if form.rank else -1
            key = (row.shape.dense, form.suffix, side)
            staircases.setdefault(key, []).append(row)
    found = {}
    sorted_points = [sorted(points, key=_rank) for points in staircases.values()]
    curves = [_curve(points, roofline) for points in sorted_points]
    suffixes = [suffix for _, suffix, _ in staircases]
    rates = _rates(curves, suffixes)
    for points, curve, suffix in zip(sorted_points, curves, suffixes, strict=True):
        for i, shrunk in shrink(curve, rates[suffix]).items():
            shape = points[i].shape
            value = points[i].ratio * math.exp(float(curve.values[i]) - shrunk.value)
            factor = math.exp(shrunk.half_width)
            found[shape] = Ratio(value=value, low=value / factor, high=value * factor)
    return found


def _rank(row: Measurement) -> int:
    return row.shape.rank


def _curve(points: Sequence[Measurement], roofline: Roofline) -> Curve:
    ratios = np.array([row.ratio for row in points])
    least_s = np.array([roofline.latency_s(row.shape) for row in points])
    widths = np.array([row.ratio_high / row.ratio_low for row in points])
    return Curve(
        ranks=np.array([float(row.shape.rank) for row in points]),
        ratios=ratios,
        values=np.log(least_s / ratios),
        half_widths=np.log(widths) / 2,
        settled=np.array([row.converged for row in points]),
    )


def _rates(curves: Sequence[Curve], suffixes: Sequence[str]) -> dict[str, float]:
    """The rate of each structure and precision; that of all where its own has too few steps."""
    of_all = step_rate(curves)
    return {
        suffix: step_rate([c for c, s in zip(curves, suffixes, strict=True) if s == suffix], of_all)
        for suffix in dict.fromkeys(suffixes)
    }


def step_rate(curves: Sequence[Curve], otherwise: float = _USUAL_RATE) -> float:
    """Standard deviation of a step for a distance of 1 in log-rank, from settled neighbours.

    `otherwise` is taken where fewer than nine steps can be observed.
    """
    steps = [step for curve in curves for step in _steps(curve)]
    rate = conformal_quantile(steps, 0.9) / _NORMAL_90
    return rate if math.isfinite(rate) else otherwise


def _steps(curve: Curve) -> list[float]:
    """|error| of interpolating every inner settled point, per square root of the distance."""
    known = curve.settled & ~_below_both_neighbours(curve)
    if known.sum() < 3:
        return []
    x, y = np.log(curve.ranks[known]), curve.values[known]
    left, right = np.diff(x)[:-1], np.diff(x)[1:]
    errors = y[1:-1] - (y[:-2] * right + y[2:] * left) / (left + right)
    scaled: list[float] = (np.abs(errors) / np.sqrt(left * right / (left + right))).tolist()
    return scaled


def shrink(curve: Curve, rate: float) -> dict[int, Shrunk]:
    """The points, by their index, that do not stand as they were measured.

    Those are all unsettled ones, and settled ones that contradict all others grossly; `rate` is
    that of `step_rate`.
    """
    if curve.settled.all() and not _below_both_neighbours(curve).any():
        return {}  # as most are: nothing can contradict the others
    credited = _credited(curve, rate)
    gross = curve.settled & (credited > curve.variances)
    found = {}
    for i in np.flatnonzero(~curve.settled | gross).tolist():
        own, variance = float(curve.values[i]), float(credited[i])
        others, spread = (float(each[i]) for each in _left_out(curve, credited, rate=rate))
        weight = variance / (variance + spread) if math.isfinite(spread) else 0.0
        value = own + weight * (others - own)
        half_width = _STUDENT_90 * math.sqrt(variance * (1.0 - weight))
        if gross[i]:  # either it or its neighbours are right
            half_width = max(half_width, abs(value - own) + float(curve.half_widths[i]))
        found[i] = Shrunk(value=value, half_width=half_width)
    return found


def _credited(curve: Curve, rate: float) -> Array:
    """Variances of all points, raised where the others contradict them; the worst goes first."""
    variances, incredible = curve.variances, _below_both_neighbours(curve)
    for _ in range(2 * len(variances)):
        others, spread = _left_out(curve, variances, rate=rate)
        distance = np.abs(curve.values - others)
        doubt = distance / np.sqrt(variances + spread)
        doubtful = np.where(curve.settled, incredible & (doubt > _GROSS), doubt > _DOUBT)
        if not doubtful.any():
            break
        worst = int(np.argmax(np.where(doubtful, doubt, 0.0)))
        variances[worst] = distance[worst] ** 2
    return variances


def _below_both_neighbours(curve: Curve) -> NDArray[np.bool_]:
    """Inner points that would be far faster than a smaller and a larger rank of the same side."""
    found = np.zeros(len(curve.ratios), dtype=bool)
    least = np.minimum(curve.ratios[:-2], curve.ratios[2:])
    found[1:-1] = curve.ratios[1:-1] < least / _GROSS_FACTOR
    return found


def _left_out(curve: Curve, variances: Array, *, rate: float) -> tuple[Array, Array]:
    """What the other points say about each, (n,), and the variance of that, (n,).

    Level and trend of the staircase are unknown, so fewer than three points say nothing.
    """
    if len(variances) <= 2:
        return curve.values, np.full(len(variances), math.inf)
    x = np.log(curve.ranks / curve.ranks[0])
    covariance = rate**2 * np.minimum.outer(x, x) + np.diag(variances)
    inverse = np.linalg.inv(covariance)
    trend = np.column_stack([np.ones_like(x), x])
    solved = inverse @ trend
    inverse -= solved @ np.linalg.solve(trend.T @ solved, solved.T)
    precision = np.diag(inverse)
    others = curve.values - inverse @ curve.values / precision
    return others, np.maximum(1.0 / precision - variances, 1e-12)
