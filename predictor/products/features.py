"""What is known of a matrix product (M×K)(K×N) on a device before it is measured.

Products are rows (M, K, N) of an array; everything here is vectorised over them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotune.devices.roofline import Roofline, limits_s
from autotune.devices.specs import DTYPE_BYTES

Array = NDArray[np.float64]
# Rows and columns of the output that one thread block computes, in the libraries' usual kernels.
TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (64, 256))
# A kernel's launch and end: what an empty one takes on every GPU that was measured.
LAUNCH_S = 2e-6
# Values in 16 bytes of half precision: other sizes fall back to slow kernels.
ALIGNED = 8


def unique_products(products: Array) -> tuple[Array, NDArray[np.intp]]:
    """The different rows of (n, 3) in order, and which of them each row is, (n,).

    `numpy.unique` of rows sorts records, which takes eight times as long.
    """
    order = np.lexsort(products.T[::-1])
    rows = products[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    which = np.empty(len(rows), dtype=np.intp)
    which[order] = np.cumsum(first) - 1
    return rows[first], which


def roofline_s(products: Array, roofline: Roofline, *, dtype: str) -> Array:
    """The greater of arithmetic over peak and bytes over bandwidth, plus the launch; (n,)."""
    compute_s, memory_s = product_limits_s(products, roofline, dtype=dtype)
    limit: Array = np.maximum(compute_s, memory_s) + LAUNCH_S
    return limit


def product_limits_s(products: Array, roofline: Roofline, *, dtype: str) -> tuple[Array, Array]:
    """Arithmetic and memory seconds, (n,) each."""
    m, k, n = products.T
    peak = roofline.peak(dtype)
    return limits_s(
        m,
        k,
        n,
        element_bytes=DTYPE_BYTES[dtype],
        peak_flops=peak,
        bandwidth_bytes_s=roofline.bandwidth_bytes_s,
    )


def physical_features(products: Array, roofline: Roofline, *, dtype: str) -> Array:
    """(n, features): sizes, both limits, waves of thread blocks and their waste, alignment."""
    m, k, n = products.T
    compute_s, memory_s = product_limits_s(products, roofline, dtype=dtype)
    columns = [
        np.log(m),
        np.log(n),
        np.log(k),
        np.log(compute_s / memory_s),
        np.log(np.maximum(compute_s, memory_s)),
        np.log(compute_s),
        np.log(memory_s),
        np.log(n / k),
        np.log(m / n),
        np.log(n * k),
        np.log(m * n),
        n % 128,
        n % 256,
        k % 128,
        k % 256,
        m % 64,
        m % 128,
        _power_of_two(n),
        _power_of_two(k),
        n % 8,
        k % 8,
    ]
    for rows, width in TILES:
        blocks = np.ceil(m / rows) * np.ceil(n / width)
        columns += [np.log(blocks), padding(products, roofline, tile=(rows, width))]
        waves = blocks / roofline.compute_units
    columns.append(np.log(k / 128 * waves))
    return np.column_stack(columns)


def coordinates(products: Array, roofline: Roofline) -> Array:
    """(n, 11): where products of one M lie near each other, scaled so that a distance of 1 is far.

    Logarithms of the sizes, the waste of the last wave for several tiles, and alignment. The scales
    are what leave-one-out errors on one device (h200-sxm) chose; they serve all.
    """
    m, k, n = products.T
    columns = [np.log(n), np.log(k), np.log(n * k)]
    for rows, width in ((64, 64), (128, 64), (128, 128), (128, 256), (256, 128)):
        waves = np.ceil(m / rows) * np.ceil(n / width) / roofline.compute_units
        columns.append(np.log(np.ceil(waves) / waves))
    columns.append(np.log(np.ceil(m / 128) * np.ceil(n / 128) / roofline.compute_units))
    scaled = np.column_stack(columns) * np.exp(-_LOG_SCALES)
    # Zero where aligned: a table of aligned sizes only is not rounded otherwise for them.
    odd = [_ALIGNMENT_SCALE * (alignment(size) - np.log2(ALIGNED)) for size in (k, n)]
    return np.column_stack([scaled, *odd])


_LOG_SCALES = np.array([2.7, 2.4, 4.5, 3.5, 3.0, 2.0, 2.5, 2.5, 4.0])
_ALIGNMENT_SCALE = 0.5


def padding(products: Array, roofline: Roofline, *, tile: tuple[int, int]) -> Array:
    """(n,): what thread blocks of a whole tile in whole waves compute, by what is asked."""
    m, _, n = products.T
    blocks = np.ceil(m / tile[0]) * np.ceil(n / tile[1])
    waves = blocks / roofline.compute_units
    computed: Array = np.ceil(waves) / waves * (blocks * tile[0] * tile[1] / (m * n))
    return computed


def alignment(sizes: Array) -> Array:
    """(n,): log2 of the largest power of two that divides, at most of `ALIGNED`."""
    return np.minimum(_power_of_two(sizes), np.log2(ALIGNED))


def _power_of_two(values: Array) -> Array:
    """log2 of the largest power of two that divides, at most 6."""
    whole = values.astype(np.int64)
    exponents: Array = np.minimum(np.log2(whole & -whole), 6.0)
    return exponents
