"""Seconds of one matrix product on simulated hardware, from tiles, waves, traffic and alignment.

The model is deliberately another one than the predictors' (predictor/layers): whole tiles are
computed in whole waves over the cores, traffic is served by two levels of memory, the two limits
meet in a soft maximum, and a misaligned size multiplies both.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

# Arithmetic and memory overlap, but not perfectly where both take equally long.
_KNEE = 4.0
_DEEPEST_SPLIT = 8
_SHORTEST_SPLIT = 256


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One kernel: the tile of the output that a core computes, and the part of peak it reaches."""

    rows: int
    columns: int
    depth: int
    efficiency: float


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Cost of one product: two limits that overlap, and the time to start it.

    `weight_s` is the part of `memory_s` that reads weights, of `weight_bytes`; `ideal_s` is the
    arithmetic at the peak rate, without waste.
    """

    ideal_s: float
    compute_s: float
    memory_s: float
    weight_s: float
    weight_bytes: float
    overhead_s: float

    @property
    def busy_s(self) -> float:
        """Seconds on the device, without the start."""
        return overlapped(self.compute_s, self.memory_s)

    def scaled(self, factor: float) -> Kernel:
        """The same product, slower by `factor` in everything."""
        return dataclasses.replace(
            self,
            compute_s=self.compute_s * factor,
            memory_s=self.memory_s * factor,
            weight_s=self.weight_s * factor,
            overhead_s=self.overhead_s * factor,
        )


def overlapped(compute_s: float, memory_s: float) -> float:
    """Seconds of work that keeps arithmetic and memory busy at the same time."""
    largest = max(compute_s, memory_s)
    if largest == 0.0:
        return 0.0
    parts = (compute_s / largest) ** _KNEE + (memory_s / largest) ** _KNEE
    return float(largest * parts ** (1 / _KNEE))


def wave_count(m: int, n: int, *, tile: Tile, cores: int) -> int:
    """Waves in which the tiles of an (M, N) output run on `cores`."""
    return math.ceil(tile_count(m, n, tile=tile) / cores)


def tile_count(m: int, n: int, *, tile: Tile) -> int:
    """Tiles that cover an (M, N) output; those at the edge count whole."""
    return math.ceil(m / tile.rows) * math.ceil(n / tile.columns)


def compute_seconds(
    m: int, k: int, n: int, *, tile: Tile, cores: int, peak_flops: float, fill: int
) -> float:
    """Seconds of arithmetic of (M × K)·(K × N) with one kernel.

    Edge tiles cost as much as whole ones, the last wave as much as a full one, and every tile pays
    for `fill` extra steps along K before its pipeline runs. Where there are fewer tiles than cores,
    K is split among them.
    """
    tiles = tile_count(m, n, tile=tile)
    split = 1
    if tiles < cores:
        split = max(1, min(cores // tiles, k // _SHORTEST_SPLIT, _DEEPEST_SPLIT))
    waves = math.ceil(tiles * split / cores)
    steps = math.ceil(k / split / tile.depth) * tile.depth + fill
    flops = 2.0 * tile.rows * tile.columns * steps
    return waves * flops * cores / (peak_flops * tile.efficiency)


def misalignment(size: int, multiple: int) -> float:
    """0 for a multiple of `multiple`, 1 for an odd size, in between by the power of two."""
    if multiple <= 1:
        return 0.0
    shared = math.gcd(size, multiple)
    return math.log(multiple / shared) / math.log(multiple)


def cliff(sizes: tuple[int, ...], multiple: int, *, factor: float) -> float:
    """By how much a product with these inner sizes is slower than an aligned one.

    The worst size counts. Half the alignment already costs most of `factor`, as measured on an
    H200: rank 1152 takes 56 µs, 1148 (a multiple of 4) 188 µs, 1151 takes 392 µs.
    """
    worst = max(misalignment(size, multiple) for size in sizes)
    return float(factor ** math.sqrt(worst))
