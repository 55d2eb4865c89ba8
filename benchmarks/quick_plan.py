"""What a quick profile knows of layers that it never measured.

    python benchmarks/quick_plan.py [--neighbour] [--layers 16] [--seed 0]

Runs `autotune profile --plan quick` on this machine into a new database, then measures layers of
widths that the plan does not hold, longer, and compares the ratios that the table predicts of
them. `--neighbour` keeps one core busy while the plan runs. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.layers.profile import profile_points, profile_quick
from autotune.predictor.layers.measuring_plan import pairs_of
from autotune.predictor.layers.table import LatencyTable
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.timing import TimingPolicy
from autotune.tuning.machines import local_machine
from autotune.tuning.measuring import MeasuringMachine
from autotune.tuning.options import MachineOptions

# Between those of the standard pool.
TOKENS = (8, 32, 100, 128, 200, 512, 800)
WIDTHS = (192, 320, 448, 640, 896, 1280, 1792, 2304, 2560, 3584)
MOST_FLOPS = 5e9


def main() -> None:
    """Profile, measure others, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neighbour", action="store_true")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine = local_machine(MachineOptions(device="cpu"))
    policy = TimingPolicy(max_seconds=2.0)
    with tempfile.TemporaryDirectory() as folder:
        with LatencyDatabase(Path(folder) / "quick.sqlite") as store:
            busy = multiprocessing.Process(target=spin, daemon=True)
            if options.neighbour:
                busy.start()
            started = time.monotonic()
            found = profile_quick(machine, store, policy=policy)
            seconds = time.monotonic() - started
            if options.neighbour:
                busy.kill()
            table = table_of(store, machine)
        with LatencyDatabase(Path(folder) / "truth.sqlite") as store:
            careful = TimingPolicy(max_seconds=4.0, target_relative_ci=0.01, min_windows=5)
            layers = unseen_layers(options.layers, options.seed)
            wanted = [s for dense in layers for s in (dense, *pairs_of(dense, machine.spec))]
            profile_points(machine, store, wanted=wanted, policy=careful)
            rows = store.measurements(machine.fingerprint.id)
    truth = {row.shape: row.ratio for row in rows if not row.shape.is_dense}
    guesses = {shape: table.estimate(shape) for shape in truth}
    errors = np.array([abs(guesses[s].ratio / truth[s] - 1) for s in truth])
    inside = [
        abs(math.log(truth[s] / e.ratio)) <= math.log(e.high_s / e.latency_s)
        for s, e in guesses.items()
    ]
    for shape in truth:
        print(shape, round(truth[shape], 3), round(guesses[shape].ratio, 3))
    row = {
        "neighbour": options.neighbour,
        "points": found.measured,
        "failed": len(found.failed),
        "seconds": seconds,
        "pairs": len(errors),
        "mape": 100 * float(errors.mean()),
        "median": 100 * float(np.median(errors)),
        "p90": 100 * float(np.quantile(errors, 0.9)),
        "coverage": float(np.mean(inside)),
    }
    print(
        f"{found.measured} points in {seconds:.0f} s; recovery of {len(errors)} pairs never "
        f"measured: {row['mape']:.1f} % MAPE, p90 {row['p90']:.1f} %, covered {row['coverage']:.2f}"
    )
    print(json.dumps(row))


def table_of(store: LatencyDatabase, machine: MeasuringMachine) -> LatencyTable:
    """The table that a tuning would use."""
    rows = store.measurements(machine.fingerprint.id)
    roofline = Roofline.of(machine.spec, machine.threads)
    return LatencyTable(rows, roofline, allow_extrapolation=True)


def unseen_layers(count: int, seed: int) -> list[LayerShape]:
    """Layers of other widths and token counts."""
    pool = [
        LayerShape(tokens=m, in_features=k, out_features=n, dtype="fp32")
        for m in TOKENS
        for k in WIDTHS
        for n in WIDTHS
    ]
    fitting = [s for s in pool if s.flops <= MOST_FLOPS]
    return random.Random(seed).sample(fitting, count)


def spin() -> None:
    """A neighbour that never stops."""
    while True:
        sum(range(10000))


if __name__ == "__main__":
    main()
