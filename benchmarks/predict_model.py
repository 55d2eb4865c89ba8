"""Models by their configuration against measured ones, and how long the answers take.

    python benchmarks/predict_model.py --measured benchmarks/results/2026-11-22-network-h200.log
    python benchmarks/predict_model.py --here [--threads 1]     # all-MiniLM shapes on this CPU
    python benchmarks/predict_model.py --times                  # the command itself, twice each

`--measured` reads what benchmarks/network_gpu.py printed: an 8-layer Llama-3-8B shape, dense and at
uniform ranks. `--here` measures the layers of a model of random weights with `profile --for`, the
dense network, and it at uniform ranks. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from model_configs import LLAMA, MINILM, QWEN

import autotune
from autotune.compress.loading import load_model
from autotune.core.progress import no_progress
from autotune.core.workload import Workload
from autotune.layers.network_changes import uniform_plan
from autotune.layers.network_records import Change, NetworkPrediction
from autotune.testing.example_tuning import example_compression, example_workspace
from autotune.tuning.builders import make_builder
from autotune.tuning.machines import local_machine
from autotune.tuning.model import trace_model
from autotune.tuning.options import MachineOptions

_REQUEST: dict[str, Any] = {"isl": 512, "osl": 128, "batch_size": 1}
# Model, its configuration, and the workload whose time is taken.
_TIMED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama-3-8b": (LLAMA, _REQUEST),
    "qwen2.5-0.5b": (QWEN, _REQUEST),
    "minilm": (MINILM, {"isl": 128, "batch_size": 8}),
}
_GPUS = ("a100", "h100", "h200")


def main() -> None:
    """Compare, or take times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", type=Path)
    parser.add_argument("--device", default="h200")
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows: list[dict[str, Any]] = []
        if options.measured:
            rows += against(options.measured, Path(folder), device=options.device)
        if options.here:
            rows += here(Path(folder), threads=options.threads)
        if options.times:
            rows += times(Path(folder))
    for row in rows:
        print(" ".join(f"{name} {_shown(value)}" for name, value in row.items()))
    print(json.dumps(rows))


def against(log: Path, folder: Path, *, device: str) -> list[dict[str, Any]]:
    """Dense seconds and ratios at uniform ranks beside those that a GPU measured."""
    model = _written(folder / "model", {**LLAMA, "num_hidden_layers": 8})
    measured = json.loads(log.read_text().splitlines()[-1])
    found: dict[tuple[int, int], NetworkPrediction] = {}
    rows = []
    for each in measured:
        if not each["plan"].startswith("keep"):
            continue  # of ranks of its own
        key = each["batch"], each["length"]
        if key not in found:
            workload = {"batch_size": key[0], "isl": key[1]}
            found[key] = autotune.predict_model(model=str(model), device=device, **workload)
        change = next(one for one in found[key].changes if one.name == each["plan"])
        measured_to = {"dense_s": each["dense_latency_s"], "ratio": each["measured_ratio"]}
        rows.append(_compared(found[key], change, **measured_to))
    return rows


def here(folder: Path, *, threads: int) -> list[dict[str, Any]]:
    """MiniLM's shapes with random weights on this CPU, from a profile of its layers."""
    import transformers

    config = transformers.BertConfig(**{k: v for k, v in MINILM.items() if k != "architectures"})
    transformers.BertModel(config).save_pretrained(folder / "model")
    database = folder / "latency.sqlite"
    workload = {"batch_size": 8, "isl": 128, "threads": threads}
    asked: dict[str, Any] = {"model": str(folder / "model"), "database": database, **workload}
    profiled = autotune.profile(**asked)
    print(f"{profiled.settled} of {profiled.wanted} timings of layers settled")
    found = autotune.predict_model(**asked)
    dense_s, ratios = _measured_here(folder, found, threads=threads)
    by_name = {change.name: change for change in found.changes}
    return [
        _compared(found, by_name[name], dense_s=dense_s, ratio=ratio)
        for name, ratio in ratios.items()
    ]


def _measured_here(
    folder: Path, found: NetworkPrediction, *, threads: int
) -> tuple[float, dict[str, float]]:
    """Seconds of the dense network, and ratios at uniform ranks by name, timed in turn."""
    traced = trace_model(load_model(str(folder / "model")), Workload(sequence_length=128))
    options = MachineOptions(database=folder / "networks.sqlite", threads=threads)
    changes = {each.name: each.keep for each in found.changes if each.keep in (0.8, 0.5, 0.3)}
    with local_machine(options) as machine, example_workspace(folder / "run") as (workspace, _):
        builder = make_builder(traced, machine, workspace=workspace)
        compression, multiple = example_compression(traced, folder), machine.rank_multiple
        builds = [builder.dense("prefill")]
        for keep in changes.values():
            plan = uniform_plan(traced.single, keep or 1.0, multiple=multiple)
            builds.append(builder.compressed("prefill", compression, plan=plan))
        inputs = builder.inputs("prefill")
        timing = machine.compare(builds, inputs, final=True, advance=no_progress)
    return timing.latencies_s[0], dict(zip(changes, timing.ratios[1:], strict=True))


def times(folder: Path) -> list[dict[str, Any]]:
    """Seconds of the command, the first time and again."""
    rows = []
    for name, (config, workload) in _TIMED.items():
        model = _written(folder / name, config)
        for device in _GPUS:
            asked = {"model": model, "device": device, **workload}
            words = [w for k, v in asked.items() for w in (f"--{k.replace('_', '-')}", str(v))]
            row: dict[str, Any] = {"model": name, "device": device}
            for which in ("first", "again"):
                start, used = time.perf_counter(), _children_s()
                command = [sys.executable, "-m", "autotune", "predict", *words]
                subprocess.run(command, check=True, capture_output=True)
                row[f"{which}_s"] = time.perf_counter() - start
                row[f"{which}_processor_s"] = _children_s() - used
            rows.append(row)
    return rows


def _children_s() -> float:
    """Processor time of all programs started here, which others lengthen little."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _compared(
    found: NetworkPrediction, change: Change, *, dense_s: float, ratio: float
) -> dict[str, Any]:
    return {
        "workload": found.workload,
        "plan": change.name,
        "measured_dense_s": dense_s,
        "dense_error": found.latency_s / dense_s - 1,
        "dense_held": found.low_s <= dense_s <= found.high_s,
        "measured_ratio": ratio,
        "ratio": change.ratio,
        "ratio_low": change.ratio_low,
        "ratio_high": change.ratio_high,
        "ratio_error": change.ratio / ratio - 1,
        "ratio_held": change.ratio_low <= ratio <= change.ratio_high,
        "verdict": change.verdict,
    }


def _written(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
