"""Physical features of a layer for the regressor (latency.md §3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.devices.roofline import Roofline, products
from autotune.devices.specs import DTYPE_BYTES
from autotune.types import LayerShape

FEATURES = (
    "log_tokens", "log_in", "log_out", "log_rank", "log_flops", "log_bytes", "log_intensity",
    "log_roofline", "rank_by_8", "rank_by_16", "rank_by_64", "out_by_64", "pair", "parts",
)  # fmt: skip


def feature_row(shape: LayerShape, roofline: Roofline) -> list[float]:
    """One row, in the order of `FEATURES`."""
    size = DTYPE_BYTES[shape.dtype]
    moved = size * sum(m * k + k * n + m * n for m, k, n in products(shape))
    rank = shape.rank or min(shape.in_features, shape.out_features)
    return [
        math.log(shape.tokens),
        math.log(shape.in_features),
        math.log(shape.out_features),
        math.log(rank),
        math.log(shape.flops),
        math.log(moved),
        math.log(shape.flops / moved),
        math.log(roofline.latency_s(shape)),
        float(rank % 8),
        float(rank % 16),
        float(rank % 64),
        float(shape.out_features % 64),
        float(shape.rank is not None),
        float(len(shape.widths)),
    ]


def feature_matrix(shapes: Sequence[LayerShape], roofline: Roofline) -> NDArray[np.float64]:
    """(len(shapes), len(FEATURES))."""
    return np.array([feature_row(shape, roofline) for shape in shapes], dtype=np.float64)
