"""95 % intervals of a median that is measured on a machine which is not always the same.

Rounds of one process follow each other closely: what slows one slows its neighbours, so their
scatter alone promises too much. An interval therefore also counts how far stretches of the
measurement, and processes, lie apart, and how much time other work took away.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

# Stretches that a measurement is cut into; each is then longer than a neighbour's usual burst.
_STRETCHES = 8
# Degrees of freedom of what is known of measurements before any was made.
_USUAL = 3
# Standard deviations in the half width of a 95 % interval.
NORMAL = statistics.NormalDist().inv_cdf(0.975)


def widened(ratio: float, interval: tuple[float, float], *, by: float) -> tuple[float, float]:
    """The ends of an interval of a ratio after an independent error of half width `by` (95 %).

    A lower end that would not be positive mirrors the upper one on a logarithmic scale.
    """
    low, high = interval
    upper = ratio + math.hypot(high - ratio, by)
    lower = ratio - math.hypot(ratio - low, by)
    return (lower if lower > 0 else ratio**2 / upper), upper


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the median from order statistics (binomial, normal approx.).

    Assumes nothing about the distribution, and that values are independent. Fewer than six values
    give their range.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n < 6:
        return ordered[0], ordered[-1]
    half = 0.98 * math.sqrt(n)
    low = max(0, math.floor(n / 2 - half))
    high = min(n - 1, math.ceil(n / 2 + half))
    return ordered[low], ordered[high]


def grouped_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % interval of the median of all values, where those of one group belong together.

    The wider of two on either side: that of independent values, and Student's t interval over the
    medians of at most eight stretches of consecutive groups.
    """
    pooled = [value for group in groups for value in group]
    middle, (low, high) = statistics.median(pooled), median_interval(pooled)
    medians = [statistics.median(stretch) for stretch in _stretches(groups)]
    if len(medians) < 3:
        return min(low, *medians), max(high, *medians)
    error = statistics.stdev(medians) / math.sqrt(len(medians))
    half = student_t(len(medians) - 1) * error
    return min(low, middle - half), max(high, middle + half)


def _stretches(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """The groups in order, joined to at most `_STRETCHES` runs of nearly equal length."""
    count = min(_STRETCHES, len(groups))
    bounds = [round(i * len(groups) / count) for i in range(count + 1)]
    return [
        [value for group in groups[start:end] for value in group]
        for start, end in itertools.pairwise(bounds)
    ]


def pooled(values: Sequence[float], half_widths: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of several measurements of one quantity.

    The mean is weighted by the inverse squares of the half widths. Where measurements lie farther
    apart than these promise, the interval is stretched by the Birge ratio (R. T. Birge, Phys. Rev.
    40, 207, 1932), in which `_USUAL` degrees of freedom stand for measurements that kept their
    promise: two that agree by chance prove little.

    Args:
        values: One a measurement.
        half_widths: Of their 95 % intervals, in the same unit; all above 0.
    """
    weights = [1.0 / half**2 for half in half_widths]
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    deviations = sum(
        ((value - mean) / (half / NORMAL)) ** 2
        for value, half in zip(values, half_widths, strict=True)
    )
    freedom = _USUAL + len(values) - 1
    stretch = max(1.0, (_USUAL + deviations) / freedom)
    return mean, math.sqrt(stretch / sum(weights))


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, within 4 % (Fisher and Cornish's expansion).

    One degree of freedom, for which the expansion is poor, has its exact value.
    """
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    z, v = NORMAL, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
