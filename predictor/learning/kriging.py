"""Smooth interpolation between measured products of one M (Gaussian process, Matérn 3/2).

Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 2.25 and 2.26; the
leave-one-out predictions are their eq. 5.12. Scales are fixed, so a fit is one Cholesky-sized solve
a slice and the same data give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MIN_POINTS = 3


class Kriging:
    """One slice: values at points, (n, d) and (n,).

    `noise` is the variance of a measurement as a part of the process's; `rough` takes the
    exponential kernel, which does not smooth between neighbours.
    """

    def __init__(self, points: Array, values: Array, *, noise: float, rough: bool = False) -> None:
        self.points, self.noise, self.rough = points, noise, rough
        covariance = self._kernel(points, points)
        covariance[np.diag_indices(len(points))] += noise
        self._inverse = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        self.mean = float(values.mean())
        self._weights = self._inverse @ (values - self.mean)
        leverage = np.diag(self._inverse)
        self.left_out = np.asarray(values - self._weights / leverage, dtype=np.float64)
        self.left_out_variance = np.asarray(1.0 / leverage, dtype=np.float64)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Values and their variances (as parts of the process's) at other points, (q,) each."""
        kernel = self._kernel(points, self.points)
        explained = np.einsum("ij,ij->i", kernel @ self._inverse, kernel)
        variance = np.maximum(1.0 + self.noise - explained, self.noise)
        return self.mean + kernel @ self._weights, variance

    def values(self, points: Array) -> Array:
        """As `predict` without the variances, which take most of its time; (q,)."""
        found: Array = self.mean + self._kernel(points, self.points) @ self._weights
        return found

    def _kernel(self, left: Array, right: Array) -> Array:
        squares: Array = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2.0 * left @ right.T
        distance: Array = np.sqrt(np.maximum(squares, 0.0))
        if self.rough:
            kernel: Array = np.exp(-distance)
        else:
            scaled = np.sqrt(3.0) * distance
            kernel = (1.0 + scaled) * np.exp(-scaled)
        return kernel


class SliceKriging:
    """A `Kriging` for every M; between measured M the two nearest are interpolated in log M."""

    def __init__(self, tokens: Array, noise: float, *, rough: bool = False) -> None:
        self.tokens, self.noise, self.rough = tokens, noise, rough
        self._slices: dict[float, Kriging] = {}

    def fit(self, points: Array, values: Array) -> tuple[Array, Array]:
        """Learn; returns every training point's prediction and variance without itself."""
        left_out, variance = np.full((2, len(values)), np.nan)
        for m in np.unique(self.tokens):
            here = self.tokens == m
            if here.sum() >= MIN_POINTS:
                one = Kriging(points[here], values[here], noise=self.noise, rough=self.rough)
                left_out[here], variance[here] = one.left_out, one.left_out_variance
                self._slices[float(m)] = one
        known = np.isfinite(left_out)
        left_out[~known], variance[~known] = np.median(values), 1.0
        self._fallback = float(np.median(values))
        return left_out, variance

    def predict(self, tokens: Array, points: Array) -> tuple[Array, Array]:
        """Values and variances at (M, point)."""
        values, variances = np.full(len(tokens), self._fallback), np.ones(len(tokens))
        for here, low, high, weight in self._between(tokens):
            below = low.predict(points[here])
            above = below if low is high else high.predict(points[here])
            values[here] = (1.0 - weight) * below[0] + weight * above[0]
            variances[here] = (1.0 - weight) * below[1] + weight * above[1]
        return values, variances

    def values(self, tokens: Array, points: Array) -> Array:
        """Interpolated values (n,) at n pairs of M and a point."""
        values = np.full(len(tokens), self._fallback)
        for here, low, high, weight in self._between(tokens):
            below = low.values(points[here])
            above = below if low is high else high.values(points[here])
            values[here] = (1.0 - weight) * below + weight * above
        return values

    def _between(
        self, tokens: Array
    ) -> Iterator[tuple[NDArray[np.bool_], Kriging, Kriging, float]]:
        """For every M asked: its rows, the slices on both sides, the weight of the upper one."""
        known = np.array(sorted(self._slices))
        for m in np.unique(tokens) if len(known) else []:
            right = min(int(np.searchsorted(known, m)), len(known) - 1)
            left = right if known[right] == m else max(right - 1, 0)
            low, high = known[left], known[right]
            weight = np.log(m / low) / np.log(high / low) if high > low else 0.0
            weight = min(max(weight, 0.0), 1.0)
            yield tokens == m, self._slices[float(low)], self._slices[float(high)], weight
