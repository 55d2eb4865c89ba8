"""Every method of the five papers beside ours, on one model, at equal parameters and equal latency.

    python benchmarks/methods.py --model DIR [--methods a,b] [--keep 0.8,0.6] [--latency 0.7x]

Needs heldout.txt beside the weights: its first half calibrates, the first 20,000 tokens of
the last quarter judge. keep_ratio is of the factorizable layers. Prints one table; the last line is
one JSON document, a list of rows. With --output it continues where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from autotune.tuning.context import Context, make_context
from autotune.tuning.stages import calibrate, error_table, load_data
from autotune.tuning.target import target_here

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.factors import Factors
from autotune.compress.loading import load_model
from autotune.compress.lowrank import dense_weight, replaced
from autotune.compress.statistics import Statistics, collect_statistics
from autotune.core.errors import BudgetInfeasibleError
from autotune.core.layers import chosen_sites
from autotune.core.paths import default_measure_seconds
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.core.types import Budget, Workload, digest
from autotune.devices.detect import check_threads
from autotune.predictor.network.model import NetworkModel
from autotune.profiler.database.latency import LatencyDatabase
from autotune.search.evidence import Evidence
from autotune.search.tables import count_resources
from autotune.tuning.loop import best_rounds, find_knobs, plan_layers, run_loop
from autotune.tuning.measuring import network_model, profile_layers
from autotune.tuning.options import MachineOptions, MethodOptions, SearchOptions
from autotune.tuning.planner import Planner
from autotune.tuning.request import TuneRequest

METHODS: dict[str, dict[str, Any]] = {
    "svd uniform": {"metric": "weight", "allocator": "uniform"},
    "svd-llm": {"metric": "activation", "allocator": "uniform"},
    "asvd": {"metric": "asvd", "allocator": "uniform"},
    "pgsvd": {"metric": "activation", "factorizer": "als", "allocator": "pgsvd"},
    "dobi": {"metric": "activation", "factorizer": "output-subspace", "allocator": "dobi"},
    "dipsvd heuristic": {"metric": "dipsvd", "allocator": "dipsvd-heuristic"},
    "dipsvd bayes": {"metric": "dipsvd", "allocator": "dipsvd-bayes:trials=60"},
    "flar": {"metric": "ledoit-wolf", "allocator": "flar"},
    "erc": {"metric": "activation", "factorizer": "residual", "allocator": "erc-plc"},
    "exact on activation": {"metric": "activation", "allocator": "exact", "sensitivity_rounds": 0},
    "exact on kfac": {"metric": "kfac", "allocator": "exact", "sensitivity_rounds": 0},
    "exact on kfac-seq": {"metric": "kfac-seq", "allocator": "exact", "sensitivity_rounds": 0},
    "exact sensitivity": {"metric": "kfac", "allocator": "exact", "sensitivity_rounds": 1},
    "default not joint": {"metric": None, "allocator": "exact+optuna", "joint": False},
    "default": {"metric": None, "allocator": "exact+optuna"},
}
_HELDOUT_TOKENS = 20_000


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--keep", default="0.9,0.8,0.7,0.6,0.5")
    parser.add_argument("--latency", default="0.9x,0.8x,0.7x,0.6x,0.5x")
    parser.add_argument("--isl", type=int, default=512)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--calibration-samples", type=int)
    parser.add_argument("--measure-seconds", type=float, default=4.0, help="Of a whole network.")
    parser.add_argument("--threads", type=int, help="Of the runtime that is timed.")
    parser.add_argument("--output", help="Folder for caches (default: a temporary one).")
    options = parser.parse_args()
    torch.set_num_threads(check_threads(None))
    columns = [{"flops": f"{float(k):g}x"} for k in options.keep.split(",") if k]
    columns += [{"latency": text} for text in options.latency.split(",") if text]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.output or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for row in compare(options, columns, folder):
            rows.append(row)
            print(line(row), flush=True)
    print(json.dumps(rows))


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "infeasible" in row:
        return f"{row['method']:20s} {row['budget']:14s} infeasible: {row['infeasible']}"
    return (
        f"{row['method']:20s} {row['budget']:14s} perplexity {row['perplexity']:8.3f} (dense "
        f"{row['dense_perplexity']:.3f})  activation loss {row['calibration_activation_loss']:.4f} "
        f"/ {row['heldout_activation_loss']:.4f}  parameters {row['parameters']:.3f}  latency "
        f"{row['predicted_ratio']:.3f} predicted {row['measured_ratio']:.3f} measured  "
        f"{row['search_seconds']:6.1f} s  {row['peak_memory_bytes'] / 1e9:.2f} GB"
    )


def request_of(options: argparse.Namespace, folder: Path) -> TuneRequest:
    """What all cells share."""
    text = (Path(options.model) / "heldout.txt").read_text()
    parts = {"first-half.txt": text[: len(text) // 2], "last-quarter.txt": text[-len(text) // 4 :]}
    for name, part in parts.items():
        (folder / name).write_text(part)
    return TuneRequest(
        model=options.model, output=folder / "run", budget=Budget(latency="1x"),
        workload=Workload(batch_size=1, sequence_length=options.isl),
        calibration=CalibrationPlan(
            calibration=str(folder / "first-half.txt"),
            evaluation=str(folder / "last-quarter.txt"),
            statistics_samples=options.calibration_samples,
            heldout_samples=_HELDOUT_TOKENS // options.isl,
        ),
        search=SearchOptions(trials=options.trials),
        machine=MachineOptions(
            measure_seconds=options.measure_seconds, database=folder / "latency.sqlite"
        ),
    )  # fmt: skip


def compare(
    options: argparse.Namespace, columns: list[dict[str, str]], folder: Path
) -> Iterator[dict[str, Any]]:
    """One row per method and column."""
    request = request_of(options, folder)
    loaded = load_model(request.model)
    with RunFolder(request.output) as run, LatencyDatabase(request.machine.database) as database:
        threads = check_threads(options.threads)
        target = target_here("cpu", request.machine.backend)
        context = make_context(request, run, Reporter(), loaded, target, threads)
        # One table prices all rows, so it is measured as long as a user's.
        long = dataclasses.replace(request.machine, measure_seconds=default_measure_seconds())
        whole = dataclasses.replace(request, machine=long)
        careful = dataclasses.replace(context, request=whole)
        table = profile_layers(careful, database)
        network = network_model(careful, table)
        judge = Judge(context)
        for method in options.methods.split(","):
            for column in columns:
                chosen = dataclasses.replace(
                    request,
                    budget=Budget(**column),
                    method=MethodOptions(**METHODS[method.strip()]),
                )
                here = dataclasses.replace(context, request=chosen)
                row = {"method": method, "budget": " ".join(next(iter(column.items())))}
                yield kept(folder / "rows.jsonl", row) or keep(
                    folder / "rows.jsonl", row | cell(here, network, judge)
                )


def kept(path: Path, row: dict[str, Any]) -> dict[str, Any] | None:
    """The finished row of an earlier run."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [one for one in map(json.loads, lines) if row.items() <= one.items()]
    return found[0] if found else None


def keep(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Write a finished row down."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def cell(context: Context, network: NetworkModel, judge: Judge) -> dict[str, Any]:
    """Solve, judge and measure one plan."""
    reset_peak_memory()
    data = load_data(context)
    factors, key = calibrate(context, data)
    parameters = list(context.loaded.model.parameters())
    totals = count_resources(
        context.sites.sites, sum(p.numel() for p in parameters),
        sum(p.numel() * p.element_size() for p in parameters), network,
    )  # fmt: skip
    evidence = Evidence(
        context.loaded.model, context.task, context.sites.sites, factors, data.search,
        context.request.seed, context.folder.cache, digest([key, len(data.search)]),
        context.joint,
    )  # fmt: skip
    planner = Planner(context, error_table(context, factors), network, totals, evidence)
    started = time.monotonic()
    try:
        if context.request.sensitivity_turns:
            planner.rescale(context.request.sensitivity_turns, lambda done, total: None)
        knobs = find_knobs(context, planner, key)
        planner.solve(knobs, margin=0.0)
    except BudgetInfeasibleError as error:
        return {"infeasible": str(error)}
    search_seconds = time.monotonic() - started
    # The closed loop of `tune`: every method's plan is corrected until its measured latency is
    # within the budget without waste, so that rows compare at equal measured latency.
    rounds = run_loop(context, planner, factors, key, knobs)
    outcome = best_rounds(planner, rounds)[0]
    allocation, measured = outcome.allocation, outcome.judged
    limit = context.request.budget
    return {
        "keep_ratio": limit.flops and float(limit.flops[:-1]),
        "latency_budget": limit.latency,
        **judge(factors, allocation.ranks),
        "parameters": allocation_parameters(context, allocation.ranks),
        "rounds": len(rounds),
        "predicted_ratio": planner.network.predict(allocation.ranks).ratio,
        "measured_ratio": measured.ratio,
        "measured_ratio_low": measured.ratio_low,
        "measured_ratio_high": measured.ratio_high,
        "gap": allocation.gap if allocation.lower_bound else None,
        "search_seconds": search_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "ranks": dict(allocation.ranks),
    }


def allocation_parameters(context: Context, ranks: Any) -> float:
    """Parameters of the factorizable layers / their dense ones."""
    kept = sum(unit.shape(rank).parameters for unit, rank in chosen_sites(context.units, ranks))
    return kept / sum(site.shape().parameters for site in context.sites.sites)


class Judge:
    """Held-out perplexity and activation losses of a plan."""

    def __init__(self, context: Context) -> None:
        self.context = context
        data = load_data(context)
        self.data = data
        model, task = context.loaded.model, context.task
        self.dense = task.figure(task.mean_loss(model, data.heldout, [None] * len(data.heldout)))
        kinds = frozenset({"gram"})
        self.grams = {
            name: collect_statistics(model, context.sites.sites, task, batches, kinds)
            for name, batches in (("calibration", data.statistics), ("heldout", data.heldout))
        }

    def __call__(self, factors: Factors, ranks: Any) -> dict[str, Any]:
        """The quality columns."""
        context, task, model = self.context, self.context.task, self.context.loaded.model
        layers = plan_layers(context, factors, ranks)
        found = {
            f"{name}_activation_loss": activation_loss(context, layers, statistics)
            for name, statistics in self.grams.items()
        }
        with replaced(context.loaded.model, layers):
            loss = task.mean_loss(model, self.data.heldout, [None] * len(self.data.heldout))
        protocol = task.protocol(self.data.heldout)
        return {
            "perplexity": task.figure(loss), "dense_perplexity": self.dense,
            "protocol": protocol, **found,
        }  # fmt: skip


def activation_loss(context: Context, layers: Any, statistics: Statistics) -> float:
    """Σ ‖(W − Ŵ)X‖² / Σ ‖WX‖² over all factorizable layers, X of the dense model."""
    wrong = whole = 0.0
    for site in context.sites.sites:
        weight = dense_weight(context.loaded.model.get_submodule(site.name)).double()
        gram = statistics.moment("gram", site)
        whole += float((weight @ gram * weight).sum())
        if site.name in layers:
            layer = layers[site.name]
            delta = weight - layer.weight.detach().double() @ layer.weight_down.detach().double()
            wrong += float((delta @ gram * delta).sum())
    return wrong / whole


def reset_peak_memory() -> None:
    """Start a new high-water mark of this process (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The high-water mark since."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
