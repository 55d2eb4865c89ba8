"""Measure a GPU's latency database: the layers of common models, dense, low-rank and joint.

    python benchmarks/device_database.py --device h200 --dtype bf16 --database FILE [--seconds 500]

Rows M from 1 to 8192; ranks on the aligned grid, and unaligned ones beside a few of them, whose
cliffs a predictor must know. `--structure pivoted` measures pivoted pairs of the same layers in
their place, on fewer M and ranks. It continues where it was stopped.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from autotune.core.forms import PIVOTED, PLAIN, low_rank
from autotune.core.layers import LayerShape
from autotune.devices.alignment import aligned_ranks, coarse_grid
from autotune.devices.detect import PresentDevice, require_device
from autotune.profiler.backends import require_backend
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import fingerprint_of, measure_points, missing_points
from autotune.profiler.measure.shard import ShardRunner
from autotune.profiler.measure.timing import TimingPolicy

TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
# Input and output features: Llama-3-8B, Llama-2-7B, Qwen2.5 1.5B and 7B, BERT-base and ViT-B; the
# last rows are of other sizes, so that a predictor sees more than a few widths.
LAYERS = (
    (4096, 4096),
    (4096, 1024),
    (4096, 14336),
    (14336, 4096),
    (4096, 11008),
    (11008, 4096),
    (1536, 1536),
    (1536, 256),
    (1536, 8960),
    (8960, 1536),
    (3584, 3584),
    (3584, 512),
    (3584, 18944),
    (18944, 3584),
    (768, 768),
    (768, 3072),
    (3072, 768),
    (1024, 1024),
    (1024, 4096),
    (2048, 2048),
    (2048, 5632),
    (5632, 2048),
    (2560, 2560),
    (2560, 10240),
    (10240, 2560),
    (5120, 5120),
    (5120, 13824),
    (13824, 5120),
    (6144, 6144),
    (8192, 1024),
    (8192, 8192),
    (896, 4864),
    (4864, 896),
    (3072, 8192),
    (8192, 3072),
)
# q, k, v and gate, up: layers with one input that may share a down factor.
JOINT = (
    (4096, (4096, 1024, 1024)),
    (4096, (14336, 14336)),
    (3584, (3584, 512, 512)),
    (768, (768, 768, 768)),
)
# Single products for the halves of pairs: every width against every other, and unaligned ones.
WIDTHS = (
    64,
    128,
    192,
    256,
    384,
    512,
    640,
    768,
    896,
    1024,
    1280,
    1536,
    1792,
    2048,
    2560,
    3072,
    3584,
    4096,
    5120,
    6144,
    7168,
    8192,
    10240,
    11008,
    12288,
    14336,
    16384,
    18944,
)
UNALIGNED = (65, 100, 127, 188, 257, 380, 511, 516, 769, 1001, 1020, 1025, 1532, 1999, 2052)
CLIFFS = (-23, -4, -1, 1, 4, 9)
CLIFF_TOKENS = (1, 16, 128, 512, 2048, 8192)
POINTS, PIVOTED_POINTS = 10, 6


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="h200")
    parser.add_argument("--backend", default="torch-cudagraph")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--structure", choices=(PLAIN, PIVOTED), default=PLAIN)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1e9, help="Stop after about so long.")
    parser.add_argument("--point-seconds", type=float, default=0.15)
    parser.add_argument(
        "--energy-seconds", type=float, default=0.0, help="A point, for its energy."
    )
    parser.add_argument("--part", type=float, default=1.0, help="Of the points, drawn at random.")
    options = parser.parse_args()
    device = require_device(options.device)
    backend = require_backend(options.backend, device.spec.kind)
    fingerprint = fingerprint_of(device, backend, dtype=options.dtype, threads=1)
    runner = ShardRunner.on(device, backend, threads=1)
    policy = TimingPolicy(
        max_seconds=options.point_seconds * 5,
        target_relative_ci=0.01,
        energy_seconds=options.energy_seconds,
    )
    started = time.monotonic()
    wanted = shapes(device, options.dtype)
    if options.structure == PIVOTED:
        wanted = pivoted(options.dtype)
    with LatencyDatabase(options.database) as database:
        points = missing_points(database, fingerprint, wanted=wanted)
        groups = sorted({point.dense for point in points}, key=str)
        random.Random(0).shuffle(groups)
        groups = groups[: round(len(groups) * options.part)]
        for i in range(0, len(groups), 16):
            if time.monotonic() - started > options.seconds:
                break
            chosen = [point for point in points if point.dense in groups[i : i + 16]]
            failed = measure_points(
                database, fingerprint, points=chosen, runner=runner, policy=policy
            )
            print(
                f"{time.monotonic() - started:6.0f} s  {i + 16} of {len(groups)} layers, "
                f"{len(failed)} points failed {failed[0].error if failed else ''}",
                flush=True,
            )


def shapes(device: PresentDevice, dtype: str) -> list[LayerShape]:
    """Everything the database is to hold."""
    found = []
    for tokens in TOKENS:
        for k, n in LAYERS:
            dense = LayerShape(tokens=tokens, in_features=k, out_features=n, dtype=dtype)
            grid = coarse_grid(
                aligned_ranks(device.spec, in_features=k, out_features=n, dtype=dtype), POINTS
            )
            grid = [64 * max(1, round(rank / 64)) for rank in grid]
            if tokens in CLIFF_TOKENS:
                grid += [grid[len(grid) // 2] + step for step in CLIFFS]
            found += [dense, *with_ranks(dense, grid)]
        for k, parts in JOINT:
            dense = LayerShape(
                tokens=tokens, in_features=k, out_features=sum(parts), parts=parts, dtype=dtype
            )
            grid = coarse_grid(
                aligned_ranks(device.spec, in_features=k, out_features=sum(parts), dtype=dtype), 6
            )
            found += [dense, *with_ranks(dense, [64 * max(1, round(r / 64)) for r in grid])]
        found += singles(tokens, dtype)
    return found


def singles(tokens: int, dtype: str) -> list[LayerShape]:
    """Half of the grid of single products, drawn anew for every M, and unaligned ones."""
    draw = random.Random(tokens)
    grid = [(k, n) for k in WIDTHS for n in WIDTHS if draw.random() < 1 / 2]
    for odd in UNALIGNED:
        other = draw.sample(WIDTHS[5:], 12)
        grid += [(k, odd) for k in other[:6]] + [(odd, n) for n in other[6:]]
        if tokens in CLIFF_TOKENS:
            more = random.Random(tokens + odd).sample(WIDTHS[5:], 20)
            grid += [(k, odd) for k in more[:10]] + [(odd, n) for n in more[10:]]
    return [LayerShape(tokens=tokens, in_features=k, out_features=n, dtype=dtype) for k, n in grid]


def pivoted(dtype: str) -> list[LayerShape]:
    """The layers and joint layers in pivoted pairs: every rank below the narrow side saves."""
    wide = [(k, (n,)) for k, n in LAYERS] + list(JOINT)
    found = []
    for tokens in CLIFF_TOKENS:
        for k, parts in wide:
            dense = LayerShape(
                tokens=tokens,
                in_features=k,
                out_features=sum(parts),
                parts=parts if len(parts) > 1 else (),
                dtype=dtype,
            )
            narrow = min(k, sum(parts))
            grid = [
                round(narrow * i / (PIVOTED_POINTS + 1) / 64) for i in range(1, 1 + PIVOTED_POINTS)
            ]
            found += with_ranks(dense, [64 * max(1, step) for step in grid], structure=PIVOTED)
    return found


def with_ranks(dense: LayerShape, ranks: list[int], *, structure: str = PLAIN) -> list[LayerShape]:
    """The pairs of one layer."""
    return [dense.with_form(low_rank(rank, structure)) for rank in sorted(set(ranks))]


if __name__ == "__main__":
    main()
