"""Physical features of a layer for the regressor (latency.md §3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.devices.roofline import Roofline, limits_s
from autotune.devices.specs import DTYPE_BYTES
from autotune.types import LayerShape

Array = NDArray[np.float64]
FEATURES = (
    "log_tokens", "log_in", "log_out", "log_rank", "log_flops", "log_bytes", "log_intensity",
    "log_roofline", "rank_by_8", "rank_by_16", "rank_by_64", "out_by_64", "pair", "parts",
)  # fmt: skip


def feature_matrix(shapes: Sequence[LayerShape], roofline: Roofline) -> tuple[Array, Array]:
    """(len(shapes), len(FEATURES)) and log(roofline seconds), (len(shapes)).

    All at once: a query of a hundred thousand layers is a question of arrays, not of loops.
    """
    sizes = [(s.tokens, s.in_features, s.out_features, s.rank or 0, len(s.widths)) for s in shapes]
    m, k, n, r, parts = np.array(sizes, dtype=np.float64).reshape(-1, 5).T
    pair = r > 0
    size = np.array([DTYPE_BYTES[s.dtype] for s in shapes], dtype=np.float64)
    peak = np.array([roofline.peak(s.dtype) for s in shapes], dtype=np.float64)
    # Values read and written: inputs, weights and outputs of one product, or of two and the latent.
    flops = 2 * m * np.where(pair, r * (k + n), k * n)
    first, second = m * k + k * r + m * r, parts * m * r + r * n + m * n
    # Side by side, dense layers of one input each read it.
    moved = size * np.where(pair, first + second, parts * m * k + k * n + m * n)
    roof = np.log(_roofline_s(shapes, roofline, (m, k, n, r, parts), size, peak))
    rank = np.where(pair, r, np.minimum(k, n))
    matrix = np.column_stack(
        [
            np.log(m), np.log(k), np.log(n), np.log(rank), np.log(flops), np.log(moved),
            np.log(flops / moved), roof, rank % 8, rank % 16, rank % 64, n % 64, pair, parts,
        ]
    )  # fmt: skip
    return matrix, roof


def _roofline_s(
    shapes: Sequence[LayerShape], roofline: Roofline, sizes: tuple[Array, ...], size: Array,
    peak: Array,
) -> Array:  # fmt: skip
    """Roofline seconds of every shape; layers of several widths one by one, they are few."""
    m, k, n, r, parts = sizes

    def product_s(inner: Array, outer: Array) -> Array:
        limits = limits_s(m, inner, outer, size, peak, roofline.bandwidth_bytes_s)
        found: Array = np.maximum(*limits)
        return found

    safe = np.maximum(r, 1.0)
    seconds = np.where(r > 0, product_s(k, safe) + product_s(safe, n), product_s(k, n))
    for i in map(int, np.flatnonzero(parts > 1)):
        seconds[i] = roofline.latency_s(shapes[i])
    return seconds
