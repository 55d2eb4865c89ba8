"""How long a latency table's answers take: 100,000 guesses, and 224 sites x 64 ranks.

    python benchmarks/query_speed.py [--repeats 3]

From the shipped H200 database and, of a device elsewhere, third-party A100 tables. Every repeat
builds its table anew; a table's time is with the fit. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import product

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.device_table import device_table
from autotune.predictor.layers.regressor import LatencyRegressor
from autotune.profiler.sources.shipped import shipped_tables

# 32 blocks of 7 layers; the second set is of sizes that no table knows.
_KNOWN = ((4096, 4096), (4096, 1024), (4096, 14336), (14336, 4096))
_UNKNOWN = ((4000, 4000), (4000, 1024), (4000, 14016), (14016, 4000))
_PER_BLOCK = {1: 2, 0: 2, 2: 2, 3: 1}
_RANKS = range(32, 32 * 65, 32)


def main() -> None:
    """Time each question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    many = _many()
    questions: dict[str, Callable[[], float]] = {
        "h200: 224 sites x 64 ranks, known layers": lambda: _table("h200", _KNOWN),
        "h200: 224 sites x 64 ranks, unknown layers": lambda: _table("h200", _UNKNOWN),
        f"h200: {len(many)} guesses of a fitted regressor": lambda: _predictions(many),
        f"h200: {len(many)} guesses in a fitted table": lambda: _guesses(many),
        "a100 of others: 224 sites x 64 ranks": lambda: _table("a100", _KNOWN),
    }
    rows = []
    for name, ask in questions.items():
        seconds = [ask() for _ in range(repeats)]
        rows.append({"question": name, "median_s": statistics.median(seconds), "all_s": seconds})
        print(f"{name:45s} {rows[-1]['median_s']:.2f} s", flush=True)
    print(json.dumps(rows))


def _predictor(device: str) -> LatencyPredictor:
    return device_table(find_device(device), "bf16", backend="torch-cudagraph").predictor


def _table(device: str, layers: tuple[tuple[int, int], ...]) -> float:
    """Seconds of all (site, rank) questions, the fit included."""
    predictor = _predictor(device)
    sites = [layers[i] for i, count in _PER_BLOCK.items() for _ in range(32 * count)]
    start = time.perf_counter()
    shapes = [
        LayerShape(tokens=2048, in_features=k, out_features=n, form=low_rank(rank), dtype="bf16")
        for (k, n), rank in product(sites, _RANKS)
    ]
    predictor.prepare(shapes)
    for shape in shapes:
        predictor.estimate(shape)
    return time.perf_counter() - start


def _many() -> list[LayerShape]:
    sizes, tokens = range(512, 5312, 192), (512, 513, 600, 700)
    return [
        LayerShape(tokens=m, in_features=k, out_features=n, form=low_rank(rank), dtype="bf16")
        for m, k, n, rank in product(tokens, sizes, sizes, range(32, 32 * 40 + 1, 32))
    ]


def _predictions(shapes: list[LayerShape]) -> float:
    """Seconds of one regressor's guesses, whatever M."""
    _, rows = shipped_tables("h200-sxm", "bf16")[0]
    plain = [row for row in rows if not row.shape.form.suffix]
    near = [row for row in plain if 256 <= row.shape.tokens <= 1024]
    regressor = LatencyRegressor(Roofline.of(find_device("h200"), 1))
    regressor.fit([row.shape for row in near], [row.latency_s for row in near])
    start = time.perf_counter()
    regressor.predict(shapes)
    return time.perf_counter() - start


def _guesses(shapes: list[LayerShape]) -> float:
    """Seconds of guesses for `shapes` from a table that was fitted before."""
    predictor = _predictor("h200")
    predictor.prepare(shapes[:1])
    for tokens in {shape.tokens for shape in shapes}:
        predictor.prepare([next(s for s in shapes if s.tokens == tokens)])
    start = time.perf_counter()
    predictor.prepare(shapes)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
