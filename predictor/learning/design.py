"""Which few products to measure of a device of which nothing is measured yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process.kernels import Kernel

Array = NDArray[np.float64]
_CANDIDATES = 2500


def spread_design(
    products: Array, count: int, *, known: Array | None = None, seed: int = 0
) -> NDArray[np.intp]:
    """`count` of `products` to measure first: spread over log sizes (k-means++ seeding).

    Away from those that are `known` (k, 3) as well, if there are any.
    """
    draw = np.random.default_rng(seed)
    points = np.log(products)
    center, scale = points.mean(0), points.std(0) + 1e-9
    points = (points - center) / scale
    if known is None or not len(known):
        chosen = [int(draw.integers(len(points)))]
        distance = ((points - points[chosen[0]]) ** 2).sum(1)
    else:
        chosen, there = [], (np.log(known) - center) / scale
        distance = ((points[:, None] - there) ** 2).sum(2).min(1)
    while len(chosen) < count:
        chosen.append(int(draw.choice(len(points), p=distance / distance.sum())))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.array(chosen)


def informative_design(
    kernel: Kernel, features: Array, *, count: int, seed: int = 0
) -> NDArray[np.intp]:
    """`count` rows, each the one that makes a process of `kernel` surest of all others.

    Greedy on the mean variance (Cohn, Neural Network Exploration Using Optimal Experiment Design,
    1996); no value is needed. Of more rows than 2,500, as many drawn ones stand for all.
    """
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(features))[:_CANDIDATES]
    # Of two different sets of points scikit-learn's kernels leave the noise out.
    covariance = kernel(features[rows], features[rows])
    measured = kernel.diag(features[rows]) - np.diag(covariance)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        gain = (covariance**2).sum(1) / (np.diag(covariance) + measured + 1e-12)
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        column = covariance[best]
        covariance = covariance - np.outer(column, column) / (column[best] + measured[best] + 1e-12)
    return rows[chosen]
