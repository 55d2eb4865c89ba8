"""Interpolation between the products of a table: two krigings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.devices.roofline import Roofline
from autotune.predictor.learning.kriging import Kernel, SliceKriging
from autotune.predictor.products.features import coordinates

Array = NDArray[np.float64]


class ProductKriging:
    """log(seconds / roofline) of products (n, 3), by a smooth and a rough kriging: (n, 2).

    `noises` are theirs (`Kernel`); `single` as `Kriging`'s.
    """

    def __init__(
        self, roofline: Roofline, noises: tuple[float, float], *, single: bool = False
    ) -> None:
        smooth, rough = noises
        self.roofline, self._single = roofline, single
        self._kernels = (Kernel(noise=smooth), Kernel(noise=rough, rough=True))

    def fit(self, products: Array, values: Array) -> Array:
        """Fit to products (n, 3) and values (n,); each product's values without itself, (n, 2)."""
        self._slices = SliceKriging(products[:, 0], kernels=self._kernels, single=self._single)
        return self._slices.fit(coordinates(products, self.roofline), values)

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit` learned, as arrays and numbers."""
        return self._slices.fitted

    def restore(self, products: Array, fitted: Mapping[str, Any]) -> None:
        """Be as `fit` left it, from its `fitted` and the products that it learned from."""
        self._slices = SliceKriging(products[:, 0], kernels=self._kernels, single=self._single)
        self._slices.restore(coordinates(products, self.roofline), fitted)

    def values(self, products: Array) -> Array:
        """The values of both krigings, (n, 2), of products (n, 3)."""
        return self._slices.values(products[:, 0], coordinates(products, self.roofline))


def hints(values: Array) -> Array:
    """For a model above, (n, 3): both values of a kriging, and how far they are apart."""
    return np.column_stack([values, values[:, 0] - values[:, 1]])
