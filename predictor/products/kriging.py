"""Interpolation between the products of a table: two krigings, with their variances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotune.devices.roofline import Roofline
from autotune.predictor.learning.kriging import SliceKriging
from autotune.predictor.products.features import coordinates

Array = NDArray[np.float64]


class ProductKriging:
    """log(seconds / roofline) of products, a smooth and a rough kriging averaged.

    `noises` are theirs (`Kriging`). They return values, (n,), and hints for a model above, (n, 5):
    both values, the logs of their variances, and how far they are apart.
    """

    def __init__(self, roofline: Roofline, noises: tuple[float, float]) -> None:
        self.roofline, self._noises = roofline, noises

    def fit(self, products: Array, values: Array) -> tuple[Array, Array]:
        """Fit to products (n, 3) and values (n,); leave-one-out values (n,) and hints (n, 5)."""
        tokens, points = products[:, 0], coordinates(products, self.roofline)
        smooth, rough = self._noises
        self._krigings = [SliceKriging(tokens, smooth), SliceKriging(tokens, rough, rough=True)]
        return _answer([kriging.fit(points, values) for kriging in self._krigings])

    def predict(self, products: Array) -> tuple[Array, Array]:
        """Values (n,) and hints (n, 5) of products (n, 3)."""
        points = coordinates(products, self.roofline)
        return _answer([each.predict(products[:, 0], points) for each in self._krigings])

    def values(self, products: Array) -> Array:
        """The values of both krigings, (n, 2), of products (n, 3)."""
        points = coordinates(products, self.roofline)
        return np.column_stack([each.values(products[:, 0], points) for each in self._krigings])


def _answer(found: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    base: Array = np.mean([values for values, _ in found], axis=0)
    columns = [column for values, variance in found for column in (values, np.log(variance))]
    return base, np.column_stack([*columns, found[0][0] - found[1][0]])
