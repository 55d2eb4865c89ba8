"""Smooth interpolation between measured products of one M (Gaussian process, Matérn 3/2 and 1/2).

Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 2.25; the leave-one-out
predictions are their eq. 5.12. Scales are fixed, so a fit is one Cholesky-sized solve a slice and
the same data give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.devices.detect import default_threads

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
MIN_POINTS = 3
# So many points at once are as fast as any: what is between them and those known stays in a cache.
_BLOCK = 128
# So many values at once are worth threads.
_MANY = 5_000


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A covariance of values: `noise` is the variance of a measurement as a part of the process's.

    `rough` takes the exponential kernel (Matérn 1/2), which does not smooth between neighbours.
    """

    noise: float
    rough: bool = False

    def of(self, distance: NDArray[Any]) -> NDArray[Any]:
        """Covariances at distances of any shape."""
        scaled: NDArray[Any] = distance * distance.dtype.type(1.0 if self.rough else np.sqrt(3.0))
        found: NDArray[Any] = np.exp(-scaled)
        if not self.rough:
            scaled += 1.0
            found *= scaled
        return found


def threads_for(count: int) -> int:
    """How many threads compute so many values: few are not worth more than one."""
    return default_threads() if count >= _MANY else 1


class Kriging:
    """One slice: values at points, (n, d) and (n,), under several kernels.

    A value is the same whatever else is asked with it. `single`: covariances of predictions are in
    single precision, which takes half the time, and values are off by 1e-4.
    """

    def __init__(
        self, points: Array, values: Array, *, kernels: Sequence[Kernel], single: bool = False
    ) -> None:
        self.mean = float(values.mean())
        columns = [_solved(points, values - self.mean, kernel=kernel) for kernel in kernels]
        self.weights = np.column_stack([weights for weights, _ in columns])
        self.left_out = np.column_stack([self.mean + left_out for _, left_out in columns])
        self._take(points, kernels, single=single)

    @staticmethod
    def of_weights(
        points: Array,
        weights: Array,
        *,
        mean: float,
        kernels: Sequence[Kernel],
        single: bool = False,
    ) -> Kriging:
        """The slice whose fit gave these weights (n, k); it does not know its `left_out`."""
        found = Kriging.__new__(Kriging)
        found.mean, found.weights = mean, weights
        found._take(points, kernels, single=single)
        return found

    def _take(self, points: Array, kernels: Sequence[Kernel], *, single: bool) -> None:
        self._to_points, self._kernels = _from_there(points), kernels
        self._dtype = np.float32 if single else np.float64
        self._columns = [*self.weights.T.astype(self._dtype)]

    def values(self, points: Array) -> Array:
        """Values at other points (q, d) under every kernel, (q, k)."""
        blocks = range(0, len(points), _BLOCK)
        found = [self._values(points[start : start + _BLOCK]) for start in blocks]
        return np.concatenate(found) if found else np.empty((0, len(self._kernels)))

    def _values(self, points: Array) -> Array:
        distance = _lengths(_from_here(points) @ self._to_points).astype(self._dtype, copy=False)
        # A sum for each row: a product of matrices orders it by how many rows there are.
        found = [
            np.einsum("qn,n->q", kernel.of(distance), weights)
            for kernel, weights in zip(self._kernels, self._columns, strict=True)
        ]
        return self.mean + np.column_stack(found).astype(np.float64)


def _solved(points: Array, values: Array, *, kernel: Kernel) -> tuple[Array, Array]:
    """The weights of centred values, (n,), and what every other point says of each, (n,)."""
    covariance = kernel.of(_lengths(_from_here(points) @ _from_there(points)))
    covariance[np.diag_indices(len(points))] += kernel.noise
    inverse = np.linalg.inv(covariance)
    weights: Array = inverse @ values
    return weights, values - weights / np.diag(inverse)


def _from_here(points: Array) -> Array:
    """(q, d + 2): times `_from_there` it is squares of distances, |a|² − 2ab + |b|²."""
    return np.hstack([-2.0 * points, (points**2).sum(1, keepdims=True), np.ones((len(points), 1))])


def _from_there(points: Array) -> Array:
    """(d + 2, n): the other side of `_from_here`."""
    return np.hstack([points, np.ones((len(points), 1)), (points**2).sum(1, keepdims=True)]).T


def _lengths(squares: Array) -> Array:
    """The roots of squares, in their place; of rounding below zero they are zero."""
    found: Array = np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares)
    return found


class SliceKriging:
    """A `Kriging` for every M; between measured M the two nearest are interpolated in log M."""

    def __init__(self, tokens: Array, *, kernels: Sequence[Kernel], single: bool = False) -> None:
        """`tokens` (n,) are the M of the points that it learns from; `single` as `Kriging`'s."""
        self.tokens, self.kernels, self._single = tokens, kernels, single
        self._slices: dict[float, Kriging] = {}

    def fit(self, points: Array, values: Array) -> Array:
        """Learn; every training point's values without itself, (n, k)."""
        left_out = np.full((len(values), len(self.kernels)), np.median(values))
        for m, here in self._known():
            one = Kriging(points[here], values[here], kernels=self.kernels, single=self._single)
            left_out[here], self._slices[m] = one.left_out, one
        self._fallback = float(np.median(values))
        return left_out

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit` learned: weights (n, k), the mean of every slice, and what is far from all."""
        weights = np.zeros((len(self.tokens), len(self.kernels)))
        for m, here in self._known():
            weights[here] = self._slices[m].weights
        means = [self._slices[m].mean for m, _ in self._known()]
        return {"weights": weights, "means": np.array(means), "fallback": self._fallback}

    def restore(self, points: Array, fitted: Mapping[str, Any]) -> None:
        """Be as `fit` left it, from its `fitted` and the points (n, d) that it learned from."""
        self._fallback = fitted["fallback"]
        for (m, here), mean in zip(self._known(), fitted["means"], strict=True):
            self._slices[m] = Kriging.of_weights(
                points[here],
                fitted["weights"][here],
                mean=float(mean),
                kernels=self.kernels,
                single=self._single,
            )

    def values(self, tokens: Array, points: Array) -> Array:
        """Interpolated values (q, k) at q pairs of M and a point."""
        values = np.full((len(tokens), len(self.kernels)), self._fallback)

        def put(asked: tuple[Mask, Kriging, Kriging, float]) -> None:
            here, low, high, weight = asked
            below = low.values(points[here])
            above = below if low is high else high.values(points[here])
            values[here] = (1.0 - weight) * below + weight * above

        slices = [*self._between(tokens)]
        # NumPy computes without the interpreter's lock, and each M fills rows of its own.
        with ThreadPoolExecutor(threads_for(len(tokens))) as pool:
            list(pool.map(put, slices))
        return values

    def _known(self) -> Iterator[tuple[float, Mask]]:
        """Every M of enough points, and where they are."""
        for m in np.unique(self.tokens):
            here = self.tokens == m
            if here.sum() >= MIN_POINTS:
                yield float(m), here

    def _between(self, tokens: Array) -> Iterator[tuple[Mask, Kriging, Kriging, float]]:
        """For every M asked: its rows, the slices on both sides, the weight of the upper one."""
        known = np.array(sorted(self._slices))
        for m in np.unique(tokens) if len(known) else []:
            right = min(int(np.searchsorted(known, m)), len(known) - 1)
            left = right if known[right] == m else max(right - 1, 0)
            low, high = known[left], known[right]
            weight = np.log(m / low) / np.log(high / low) if high > low else 0.0
            weight = min(max(weight, 0.0), 1.0)
            yield tokens == m, self._slices[float(low)], self._slices[float(high)], weight
