"""Every method of the five papers beside ours, on one model, at equal parameters and equal latency.

    python benchmarks/methods.py --model DIR [--methods a,b] [--keep 0.8,0.6] [--latency 0.7x]

Every row is a tuning of its own, as `autotune tune` runs it, with the method's options; all rows
share one run folder and one latency database. Needs heldout.txt beside the weights: its first half
calibrates, the first 20,000 tokens of the last quarter judge. keep_ratio is of the factorizable
layers. Prints one table; the last line is one JSON document, a list of rows. With --output it
continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from method_options import METHODS, exact
from torch import Tensor, nn

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.lowrank import LowRankLinear, dense_weight
from autotune.compress.statistics import (
    Statistics,
    collect_statistics,
    load_statistics,
    save_statistics,
)
from autotune.compress.tasks.base import Batch
from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import Plan, plan_to_json
from autotune.core.layers import chosen_sites
from autotune.core.paths import default_measure_seconds
from autotune.core.progress import Advance, Reporter, no_progress
from autotune.core.types import Budget, Workload
from autotune.results.record import Quality
from autotune.tuning.opening import open_tuning
from autotune.tuning.options import MachineOptions, SearchOptions
from autotune.tuning.request import TuneRequest
from autotune.tuning.rounds import Round
from autotune.tuning.session import Tuning

Row = dict[str, Any]


_HELDOUT_TOKENS = 20_000
# Stages of a tuning in which a plan is looked for; the last of them always runs.
_SEARCHES = ("sensitivity pass", "search the outer knobs")
_SOLVES = "choose the plan"


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
    parser.add_argument("--threads", type=int, help="Of torch and of the runtime that is timed.")
    parser.add_argument("--output", help="Folder for caches (default: a temporary one).")
    options = parser.parse_args()
    columns = [Budget(flops=f"{float(k):g}x") for k in options.keep.split(",") if k]
    columns += [Budget(latency=text) for text in options.latency.split(",") if text]
    methods = [name.strip() for name in options.methods.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.output or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for row in compare(
            request_of(options, folder), methods, columns=columns, finished=folder / "rows.jsonl"
        ):
            rows.append(row)
            print(line(row), flush=True)
    print(json.dumps(rows))


def line(row: Row) -> str:
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
    """What all rows share; the budget and the method are the row's."""
    text = (Path(options.model) / "heldout.txt").read_text()
    parts = {"first-half.txt": text[: len(text) // 2], "last-quarter.txt": text[-len(text) // 4 :]}
    for name, part in parts.items():
        (folder / name).write_text(part)
    return TuneRequest(
        model=options.model,
        output=folder / "run",
        budget=Budget(latency="1x"),
        workload=Workload(batch_size=1, sequence_length=options.isl),
        calibration=CalibrationPlan(
            calibration=str(folder / "first-half.txt"),
            evaluation=str(folder / "last-quarter.txt"),
            statistics_samples=options.calibration_samples,
            heldout_samples=_HELDOUT_TOKENS // options.isl,
        ),
        search=SearchOptions(trials=options.trials, references=False),
        machine=MachineOptions(
            measure_seconds=options.measure_seconds,
            threads=options.threads,
            database=folder / "latency.sqlite",
        ),
    )


def compare(
    request: TuneRequest, methods: list[str], *, columns: list[Budget], finished: Path
) -> Iterator[Row]:
    """One row per method and column; rows that `finished` holds are not computed again."""
    prepared = False
    for method in methods:
        for budget in columns:
            name, limit = next(iter(budget.limits().items()))
            row = {"method": method, "budget": f"{name} {limit.text}"}
            found = kept(finished, row)
            if found is None:
                if not prepared:
                    measure_layers(request)
                    prepared = True
                chosen = METHODS[method].applied(replace(request, budget=budget))
                found = keep(finished, row | tuned_row(chosen))
            yield found


def measure_layers(request: TuneRequest) -> None:
    """Measure the model's layers as long as a user's tuning does: one table prices all rows.

    The weight metric needs no gradients, and the exact allocator offers joint sites, so that their
    layers are measured as well.
    """
    machine = replace(request.machine, measure_seconds=default_measure_seconds())
    cheap = exact("weight").applied(replace(request, machine=machine))
    with open_tuning(cheap, Stopwatch()):
        pass


def kept(path: Path, row: Row) -> Row | None:
    """The finished row of an earlier run."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found: list[Row] = [one for one in map(json.loads, lines) if row.items() <= one.items()]
    return found[0] if found else None


def keep(path: Path, row: Row) -> Row:
    """Write a finished row down."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


@dataclass
class Stopwatch(Reporter):
    """Adds up the seconds of every stage, and logs them."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Time a stage."""
        started = time.monotonic()
        print(f"  {name} …", file=sys.stderr, flush=True)
        yield no_progress
        seconds = time.monotonic() - started
        self.seconds[name] += seconds
        print(f"  {seconds:7.1f} s  {name}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Log a line."""
        print(f"  {text}", file=sys.stderr, flush=True)


def tuned_row(request: TuneRequest) -> Row:
    """Tune once; what the product's own steps report, and the activation losses of the plan."""
    reset_peak_memory()
    watch = Stopwatch()
    started = time.monotonic()
    try:
        with open_tuning(request, watch) as tuning:
            tuning.require_feasible()
            rounds = tuning.close_loop(tuning.search())
            final = tuning.confirm(rounds)
            row = figures(tuning, final, quality=tuning.judge(final))
            peak = peak_memory_bytes()
            row |= activation_losses(tuning, final.allocation.plan)
    except BudgetInfeasibleError as error:
        return {"infeasible": str(error)}
    searched = sum(watch.seconds.get(stage, 0.0) for stage in _SEARCHES)
    return row | {
        "rounds": len(rounds),
        "search_seconds": searched + watch.seconds[_SOLVES],
        "peak_memory_bytes": peak,
        "seconds": time.monotonic() - started,
    }


def figures(tuning: Tuning, final: Round, *, quality: Quality) -> Row:
    """Quality, size and latency of what would be handed out."""
    budget, allocation = tuning.request.budget, final.allocation
    return {
        "keep_ratio": budget.flops and float(budget.flops[:-1]),
        "latency_budget": budget.latency,
        "perplexity": quality.compressed,
        "dense_perplexity": quality.dense,
        "protocol": quality.protocol,
        "parameters": layer_parameters(tuning, allocation.plan),
        "predicted_ratio": tuning.planner.network.predict(allocation.plan).ratio,
        "measured_ratio": final.judged.ratio,
        "measured_ratio_low": final.judged.ratio_low,
        "measured_ratio_high": final.judged.ratio_high,
        "verdict": str(tuning.verdict(final).value),
        "gap": allocation.gap if allocation.lower_bound else None,
        "ranks": {name: form.rank_or_none for name, form in allocation.plan.items()},
        "plan": plan_to_json(allocation.plan),
    }


def layer_parameters(tuning: Tuning, plan: Plan) -> float:
    """Parameters of the factorizable layers / their dense ones."""
    left = sum(
        site.shape(form).parameters for site, form in chosen_sites(tuning.model.choices, plan)
    )
    return left / sum(site.shape().parameters for site in tuning.model.single)


def activation_losses(tuning: Tuning, plan: Plan) -> Row:
    """Relative squared errors of the layers' outputs, on calibration and on held-out inputs."""
    layers = tuning.compression.layers(plan)
    parts = {"calibration": tuning.data.statistics, "heldout": tuning.data.heldout}
    return {
        f"{name}_activation_loss": activation_loss(
            tuning, layers, statistics=grams(tuning, name, batches=batches)
        )
        for name, batches in parts.items()
    }


def grams(tuning: Tuning, part: str, *, batches: tuple[Batch, ...]) -> Statistics:
    """Second moments of the layers' inputs in the dense model, kept in the run folder."""
    model = tuning.model

    def build(path: Path) -> None:
        moments = frozenset({"gram"})
        with tuning.workspace.stage(f"collect {part} inputs") as advance:
            found = collect_statistics(
                model.loaded.model,
                model.single,
                task=model.task,
                batches=batches,
                kinds=moments,
                progress=advance,
            )
        save_statistics(found, path)

    key = {**model.key, "data": tuning.data.sha256, "part": part}
    return load_statistics(tuning.workspace.file("grams", key, suffix=".safetensors", build=build))


def activation_loss(
    tuning: Tuning, layers: Mapping[str, nn.Module], *, statistics: Statistics
) -> float:
    """Σ ‖(W − Ŵ)X‖² / Σ ‖WX‖² over all factorizable layers, X of the dense model."""
    wrong = whole = 0.0
    for site in tuning.model.single:
        weight = dense_weight(tuning.model.loaded.model.get_submodule(site.name)).double()
        gram = statistics.moment("gram", site)
        whole += float((weight @ gram * weight).sum())
        if site.name in layers:
            delta = weight - weight_of(layers[site.name])
            wrong += float((delta @ gram * delta).sum())
    return wrong / whole


def weight_of(layer: nn.Module) -> Tensor:
    """The weight (N, K) that a layer of a plan multiplies by, fp64."""
    if isinstance(layer, LowRankLinear):
        return layer.product()
    return dense_weight(layer).double()


def reset_peak_memory() -> None:
    """Start a new high-water mark of this process (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The high-water mark since."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
