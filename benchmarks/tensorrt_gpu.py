"""Engines of a tuned model and of its dense equivalent on this GPU: measured against predicted.

    python benchmarks/tensorrt_gpu.py --model RUN [--model RUN …] [--shape 16x256] [--decode]

RUN is the folder of a tuning. Both engines are built, compared with onnxruntime on the same graph
(one row included) and timed in turn by the machine that `tune --backend tensorrt` uses; it also
measures the layers, in every form that the plan has, from which the network model predicts. Prints
a table; the last line is one JSON document, a list of rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from network_gpu import network_of
from safetensors.torch import save_file

from autotune.compress.checkpoint import low_rank_layers
from autotune.compress.loading import LoadedModel
from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import Site
from autotune.core.progress import Reporter, no_progress
from autotune.core.runfolder import RunFolder
from autotune.core.types import Estimate, Workload
from autotune.export.dense import merge
from autotune.export.graphs import open_checkpoint
from autotune.export.tensorrt import example_inputs, export_tensorrt
from autotune.profiler.engines.builder import ENGINE
from autotune.tuning.machine import Machine
from autotune.tuning.machines import local_machine
from autotune.tuning.options import MachineOptions
from autotune.tuning.workspace import Workspace


class Talk(Reporter):
    """Says what happens."""

    def note(self, text: str) -> None:
        """One line."""
        print(text, flush=True)


def main() -> None:
    """Build, compare, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--shape", default="16x256", help="BATCHxTOKENS")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--device", default="h200")
    options = parser.parse_args()
    batch, length = map(int, options.shape.split("x"))
    workload = Workload(batch_size=batch, sequence_length=length)
    wanted = MachineOptions(device=options.device, backend="tensorrt", dtype=options.dtype)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, local_machine(wanted) as machine:
        for name in options.model:
            folders = {"tuned": Path(name), "dense": merge(name, Path(scratch) / Path(name).name)}
            made = {
                kind: export_tensorrt(
                    folder,
                    Path(scratch) / f"{Path(name).name}-{kind}",
                    dtype=options.dtype,
                    decode=options.decode,
                    workload=workload,
                    here=True,
                    reporter=Talk(),
                )
                for kind, folder in folders.items()
            }
            loaded, _ = open_checkpoint(name, options.dtype)
            for phase in made["tuned"]["engines"]:
                rows.append(row(machine, loaded, name=name, phase=phase, made=made, at=workload))
                print(line(rows[-1]), flush=True)
    print(json.dumps(rows))


def row(
    machine: Machine,
    loaded: LoadedModel,
    *,
    name: str,
    phase: str,
    made: dict[str, Any],
    at: Workload,
) -> dict[str, Any]:
    """One phase of one model."""
    batch, length = at.batch_size, at.sequence_length
    engines = [Path(made[kind]["output"]) / phase / ENGINE for kind in ("dense", "tuned")]
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.safetensors"
        save_file(example_inputs(loaded, phase, batch=batch, length=length), inputs)
        timing = machine.compare(engines, inputs, final=True, advance=no_progress)
    tokens = batch * (length if phase == "prefill" else 1)
    predicted = prediction(machine, loaded, tokens=tokens, dense_latency_s=timing.latencies_s[0])
    engine = made["tuned"]["engines"][phase]
    return {
        "model": Path(name).name,
        "pass": phase,
        "shape": [batch, length],
        "tensorrt": engine["tensorrt"],
        "opset": made["tuned"]["opset"],
        "dense_latency_s": timing.latencies_s[0],
        "latency_s": timing.latencies_s[1],
        "measured_ratio": timing.ratios[1],
        "measured_ratio_low": timing.ratio_lows[1],
        "measured_ratio_high": timing.ratio_highs[1],
        "predicted_ratio": predicted.latency_s / timing.latencies_s[0],
        "build_seconds": {kind: one["engines"][phase]["seconds"] for kind, one in made.items()},
        "engine_bytes": {kind: one["engines"][phase]["engine_bytes"] for kind, one in made.items()},
        "output_types": engine["output_types"],
        "parity": [[c["batch_size"], c["length"], c["error"]] for c in engine["cases"]],
    }


def prediction(
    machine: Machine, loaded: LoadedModel, *, tokens: int, dense_latency_s: float
) -> Estimate:
    """Seconds of the tuned network, from the dense one's and from its layers, each by itself."""
    layers = low_rank_layers(loaded.model)
    plan = {name: low_rank(layer.rank) for name, layer in layers.items()}
    sites = [
        Site(name=name, in_features=one.in_features, out_features=one.out_features, tokens=tokens)
        for name, one in layers.items()
    ]
    shapes = {
        site.shape(form, machine.dtype) for site in sites for form in (DENSE, plan[site.name])
    }
    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder) / "run") as run:
        workspace = Workspace(folder=run, reporter=Talk())
        table = machine.measure_layers(shapes, workspace, stage="measure layers")
    network = network_of(sites, table, dtype=machine.dtype, latency_s=dense_latency_s)
    return network.predict(plan)


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    worst = max(case[2] for case in found["parity"])
    return (
        f"{found['model']:10s} {found['pass']:8s} {found['shape'][0]}x{found['shape'][1]:<5d} "
        f"dense {found['dense_latency_s'] * 1e6:8.1f} us "
        f"tuned {found['latency_s'] * 1e6:8.1f} us  measured "
        f"{found['measured_ratio']:.3f} ({found['measured_ratio_low']:.3f} to "
        f"{found['measured_ratio_high']:.3f})  predicted {found['predicted_ratio']:.3f}  parity "
        f"{worst:.1e}  types {found['output_types']}  built in {found['build_seconds']}"
    )


if __name__ == "__main__":
    main()
