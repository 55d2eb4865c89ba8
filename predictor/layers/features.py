"""Layers as arrays, and what is known of their products before they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.predictor.products.features import (
    ALIGNED,
    alignment,
    padding,
    product_limits_s,
    roofline_s,
)

Array = NDArray[np.float64]
# Of the tiles: small, usual, large (product_features.TILES).
_TILES = ((64, 64), (128, 128), (256, 128))
# So many measured dense layers say what any product takes: pairs are not needed for that.
MANY_PRODUCTS = 60


@dataclass(frozen=True, kw_only=True)
class LayerArrays:
    """Layers of one dtype: a question of a hundred thousand is one of arrays, not of loops.

    `dense`, `down` and `up` are products (n, 3) as (M, K, N); of a layer that is not factorized
    `down` is the layer and `up` NaN. Layers side by side, and their up factors, count as one
    product of the summed width; `parts` says of how many.
    """

    dense: Array
    down: Array
    up: Array
    parts: Array

    @staticmethod
    def of(shapes: Sequence[LayerShape]) -> LayerArrays:
        """The arrays (n, …) of a sequence of n layers."""
        sizes = [(s.tokens, s.in_features, s.out_features, s.rank, len(s.parts)) for s in shapes]
        m, k, n, r, parts = np.array(sizes, dtype=np.float64).reshape(-1, 5).T
        rank = np.where(r > 0, r, np.nan)
        return LayerArrays(
            dense=np.column_stack([m, k, n]),
            parts=parts,
            down=np.column_stack([m, k, np.where(r > 0, r, n)]),
            up=np.column_stack([np.where(r > 0, m, np.nan), rank, np.where(r > 0, n, np.nan)]),
        )

    @property
    def undivided(self) -> LayerArrays:
        """The same layers without factorization: `down` is the dense layer and `up` NaN."""
        nothing = np.full_like(self.dense, np.nan)
        return LayerArrays(dense=self.dense, down=self.dense, up=nothing, parts=self.parts)

    def of_rows(self, rows: NDArray[Any]) -> LayerArrays:
        """The layers that `rows` selects: a mask (n,), or indices."""
        return LayerArrays(
            dense=self.dense[rows], down=self.down[rows], up=self.up[rows], parts=self.parts[rows]
        )

    @property
    def pairs(self) -> NDArray[np.bool_]:
        """Which layers are factorized, (n,)."""
        return np.isfinite(self.up[:, 1])

    @property
    def aligned(self) -> NDArray[np.bool_]:
        """(n,): whether every size keeps the fast kernels of half precision."""
        sizes = np.column_stack([self.dense[:, 1:], self.down[:, 2]])
        found: NDArray[np.bool_] = (sizes % ALIGNED == 0).all(axis=1)
        return found

    @property
    def kept(self) -> Array:
        """(n,): parameters by those of the dense layer."""
        weights = self.down[:, 1] * self.down[:, 2] + np.nan_to_num(self.up[:, 1] * self.up[:, 2])
        kept: Array = weights / (self.dense[:, 1] * self.dense[:, 2])
        return kept

    def roofline_s(self, roofline: Roofline, dtype: str) -> tuple[Array, Array]:
        """The least seconds of the layers, and of the dense ones; (n,) each."""
        down, up, dense = (
            np.maximum(*product_limits_s(products, roofline, dtype=dtype))
            for products in (self.down, self.up, self.dense)
        )
        return down + np.nan_to_num(up), dense


def product_columns(products: Array, roofline: Roofline, *, dtype: str) -> Array:
    """(n, 11): sizes, roofline, what whole tiles and waves waste, and alignment."""
    m, k, n = products.T
    waste = [np.log(padding(products, roofline, tile=tile)) for tile in _TILES]
    return np.column_stack(
        [
            np.log(m),
            np.log(k),
            np.log(n),
            np.log(roofline_s(products, roofline, dtype=dtype)),
            *waste,
            alignment(k),
            alignment(n),
            n % 128,
            n % 64,
        ]
    )


def distinct(rows: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the distinct rows, and of every row among them.

    As `np.unique(axis=0)`, ten times faster: a row's code is its place in a table of each column's
    distinct values.
    """
    codes = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        values, places = np.unique(column, return_inverse=True)
        codes = codes * len(values) + places
    _, index, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return index, inverse
