"""How well a table of this profiler's own measurements guesses layers that it never saw.

    python benchmarks/own_pairs.py [--device h200] [--dtype bf16] [--database FILE] [--dense-known]

Of the shipped database, or of FILE. 5 folds by (K, N) group, seed 0: neither a held-out shape's
pairs nor its dense layer are known (`--dense-known`: the dense layer is, as after
`autotune profile --for MODEL`), single products of other shapes are. Prints recovery (pair /
dense) in % MAPE, what of the seconds the 90 % intervals cover, and whether every rank beside a
cliff is slower than its aligned neighbours. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.devices.specs import DeviceSpec, find_device
from autotune.predictor.layers.table import LatencyTable
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Measurement
from autotune.profiler.sources.shipped import shipped_tables

Array = NDArray[np.float64]
_FOLDS = 5


def main() -> None:
    """Hold out, guess, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="h200")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--database", type=Path)
    parser.add_argument("--dense-known", action="store_true")
    options = parser.parse_args()
    spec = find_device(options.device)
    rows = [
        row for row in read(spec, options.dtype, database=options.database) if not row.shape.parts
    ]
    pairs = [row for row in rows if row.shape.rank]
    folds = folds_of([row.shape for row in pairs])
    guesses, covered = np.empty(len(pairs)), np.empty(len(pairs), dtype=bool)
    for fold in range(_FOLDS):
        held = [i for i in range(len(pairs)) if folds[size_of(pairs[i].shape)] == fold]
        blind = {size for size in folds if folds[size] == fold}
        table = blind_table(rows, blind, spec=spec, dense_known=options.dense_known)
        asked = [pairs[i].shape for i in held]
        table.prepare(asked)
        for i, shape in zip(held, asked, strict=True):
            found = table.estimate(shape)
            guesses[i] = found.ratio
            covered[i] = found.low_s <= seconds(pairs[i]) <= found.high_s
    report(spec, options.dtype, pairs=pairs, guesses=guesses, covered=covered)


def read(spec: DeviceSpec, dtype: str, *, database: Path | None) -> list[Measurement]:
    """Measured layers with CUDA graphs."""
    if database is None:
        rows = shipped_tables(spec.name, dtype)[0][1]
        return [row for row in rows if not row.shape.form.suffix]
    with LatencyDatabase(database) as opened:
        tables = [(opened.measurements(k), f) for k, f in opened.fingerprints().items()]
    same = [rows for rows, found in tables if found.dtype == dtype]
    return max(same, key=len)


def size_of(shape: LayerShape) -> tuple[int, int]:
    """(K, N): what is held out together."""
    return shape.in_features, shape.out_features


def folds_of(shapes: Sequence[LayerShape]) -> dict[tuple[int, int], int]:
    """Fold of every (K, N)."""
    sizes = sorted({size_of(shape) for shape in shapes})
    draw = np.random.default_rng(0).permutation(len(sizes))
    return {size: int(draw[i]) % _FOLDS for i, size in enumerate(sizes)}


def blind_table(
    rows: Sequence[Measurement], held: set[tuple[int, int]], *, spec: DeviceSpec, dense_known: bool
) -> LatencyTable:
    """A table without the shapes of `held`, or without their pairs only."""
    known = [
        row
        for row in rows
        if size_of(row.shape) not in held or (dense_known and row.shape.is_dense)
    ]
    cliff = spec.cliff(known[0].shape.dtype)
    return LatencyTable(known, Roofline.of(spec, 1), cliff=cliff)


def seconds(row: Measurement) -> float:
    """Measured."""
    assert row.latency_s
    return row.latency_s


def report(
    spec: DeviceSpec, dtype: str, *, pairs: list[Measurement], guesses: Array, covered: Array
) -> None:
    """Lines for eyes and one for machines."""
    truth = np.array([row.ratio for row in pairs], dtype=np.float64)
    errors = np.abs(guesses / truth - 1) * 100
    step = spec.rank_multiple(dtype)
    aligned = np.array([row.shape.rank % step == 0 for row in pairs])
    tokens = np.array([row.shape.tokens for row in pairs])
    found: dict[str, Any] = {"device": spec.name, "dtype": dtype, "pairs": len(pairs)}
    groups = {"all": np.ones(len(pairs), bool), "aligned": aligned, "beside cliffs": ~aligned}
    groups |= {f"aligned, {m} tokens": aligned & (tokens == m) for m in np.unique(tokens)}
    for name, chosen in groups.items():
        row = {
            "mape": float(errors[chosen].mean()),
            "p90": float(np.percentile(errors[chosen], 90)),
            "coverage": float(covered[chosen].mean()),
        }
        found[name] = row
        print(f"{name:22s} " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    found["cliffs"] = cliffs(pairs, guesses, step=step)
    print("beside a cliff and slower than aligned neighbours:", found["cliffs"])
    print(json.dumps(found))


def cliffs(pairs: list[Measurement], guesses: Array, *, step: int) -> dict[str, int]:
    """Ranks that are no multiple of `step`: how many are guessed, and measured, slower."""
    known = {row.shape: (guess, row.ratio) for row, guess in zip(pairs, guesses, strict=True)}
    counts = {"ranks": 0, "guessed": 0, "measured": 0}
    for shape, (guess, ratio) in known.items():
        rank = shape.rank
        near = shape.with_form(low_rank(max(1, round(rank / step)) * step))
        if rank % step and near in known:
            counts["ranks"] += 1
            counts["guessed"] += bool(guess > known[near][0])
            counts["measured"] += bool((ratio or 0) > (known[near][1] or 0))
    return counts


if __name__ == "__main__":
    main()
