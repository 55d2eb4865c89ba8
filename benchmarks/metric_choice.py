"""Which metric keeps a model better at equal parameters, ranks chosen exactly for each.

    python benchmarks/metric_choice.py [--model DIR] [--keep 0.7,0.6] [--isl 128] [--calibration F]

Every row is a tuning under a FLOPs budget, which counts the factorizable layers as their
parameters do. All rows share one run folder. Prints a table; the last line is one JSON document,
a list of rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.core.progress import Reporter
from autotune.core.types import Budget, Workload
from autotune.results.record import Quality
from autotune.tuning.opening import open_tuning
from autotune.tuning.options import MachineOptions, MethodOptions, SearchOptions
from autotune.tuning.request import TuneRequest

METRICS = ("weight", "activation", "kfac", "kfac-seq")


def main() -> None:
    """Print the quality that each metric keeps, one line per share of parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--keep", default="0.7,0.6")
    parser.add_argument("--isl", type=int, default=128)
    parser.add_argument("--calibration")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        shares = [float(share) for share in options.keep.split(",")]
        for name, keep, quality in compare(request_of(options, Path(folder)), shares):
            figures = {quality.metric: quality.compressed, "dense": quality.dense}
            rows.append({"metric": name, "keep_ratio": keep, **figures})
            print(
                f"{name:12s} keep {keep:.2f}  {quality.metric} {quality.compressed:.4f} "
                f"(dense {quality.dense:.4f})",
                flush=True,
            )
    print(json.dumps(rows))


def request_of(options: argparse.Namespace, folder: Path) -> TuneRequest:
    """What all rows share; joint sites are left out, as they change what a rank costs."""
    model = {} if options.model is None else {"model": options.model}
    return TuneRequest(
        **model,
        output=folder / "run",
        budget=Budget(flops="1x"),
        workload=Workload(batch_size=8, sequence_length=options.isl),
        calibration=CalibrationPlan(calibration=options.calibration),
        method=MethodOptions(allocator="exact", joint=False),
        search=SearchOptions(trials=0, sensitivity_rounds=0, rounds=1),
        machine=MachineOptions(measure_seconds=0.5, database=folder / "latency.sqlite"),
    )


def compare(request: TuneRequest, shares: list[float]) -> Iterator[tuple[str, float, Quality]]:
    """Metric, share of the factorizable parameters, and quality on held-out data."""
    for name in METRICS:
        for keep in shares:
            chosen = replace(
                request,
                budget=Budget(flops=f"{keep:g}x"),
                method=replace(request.method, metric=name),
            )
            with open_tuning(chosen, Reporter()) as tuning:
                rounds = tuning.close_loop(tuning.search())
                yield name, keep, tuning.judge(rounds[0])


if __name__ == "__main__":
    main()
