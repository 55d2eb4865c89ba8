"""Pairs and pivoted pairs of one rank beside each other on a GPU, as ratios to the dense layer.

    python benchmarks/pivoted_gpu.py --device h200 --dtype bf16 --database FILE

Prints one table; the last line is one JSON list of {tokens, in_features, out_features, rank, plain,
pivoted}. It continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from autotune.core.forms import PIVOTED, PLAIN, low_rank
from autotune.core.layers import LayerShape
from autotune.devices.detect import require_device
from autotune.profiler.backends import require_backend
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import fingerprint_of, measure_points, missing_points
from autotune.profiler.measure.shard import ShardRunner
from autotune.profiler.measure.timing import TimingPolicy

TOKENS = (1, 16, 128, 2048)
LAYERS = ((4096, 4096), (4096, 14336), (14336, 4096), (768, 3072), (3072, 768))
# Ranks as shares of the narrow side, rounded down to multiples of 64.
SHARES = (0.25, 0.5, 0.75)


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="h200")
    parser.add_argument("--backend", default="torch-cudagraph")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--database", type=Path, required=True)
    options = parser.parse_args()
    device = require_device(options.device)
    backend = require_backend(options.backend, device.spec.kind)
    fingerprint = fingerprint_of(device, backend, dtype=options.dtype, threads=1)
    pairs = [
        (shape, int(min(shape.in_features, shape.out_features) * share) // 64 * 64)
        for shape in (
            LayerShape(tokens=tokens, in_features=k, out_features=n, dtype=options.dtype)
            for k, n in LAYERS
            for tokens in TOKENS
        )
        for share in SHARES
    ]
    wanted = [
        shape.with_form(low_rank(rank, structure))
        for shape, rank in pairs
        for structure in (PLAIN, PIVOTED)
    ]
    with LatencyDatabase(options.database) as database:
        failed = measure_points(
            database,
            fingerprint,
            points=missing_points(database, fingerprint, wanted=wanted),
            runner=ShardRunner.on(device, backend, threads=1),
            policy=TimingPolicy(max_seconds=1.0, target_relative_ci=0.01),
        )
        ratios = {row.shape: row.ratio for row in database.measurements(fingerprint.id)}
    for row in failed:
        print(f"failed: {row.shape}: {row.error}")
    rows = []
    for shape, rank in pairs:
        plain, pivoted = (
            ratios[shape.with_form(low_rank(rank, structure))] for structure in (PLAIN, PIVOTED)
        )
        sizes = {
            "tokens": shape.tokens,
            "in_features": shape.in_features,
            "out_features": shape.out_features,
            "rank": rank,
        }
        rows.append({**sizes, "plain": plain, "pivoted": pivoted})
        print(f"{' '.join(map(str, sizes.values())):24s} {plain:.3f} -> {pivoted:.3f}", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
