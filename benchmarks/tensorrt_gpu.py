"""Engines of a tuned model and of its dense equivalent on this GPU: measured against predicted.

    python benchmarks/tensorrt_gpu.py --model RUN [--model RUN …] [--shape 16x256] [--decode]

RUN is the folder of a tuning. Both engines are built, compared with onnxruntime on the same graph
(one row included) and called in turn as CUDA graphs. The prediction is made as `tune` makes it:
dense latency less what each pair saves, every layer timed by itself as an engine. Prints a table;
the last line is one JSON document, a list of rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.compress.checkpoint import low_rank_layers
from autotune.compress.loading import LoadedModel
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.core.progress import Reporter
from autotune.core.types import Workload
from autotune.export.dense import merge
from autotune.export.graphs import open_checkpoint
from autotune.export.tensorrt import example_inputs, export_tensorrt
from autotune.profiler.backends.tensorrt import TensorRT
from autotune.profiler.engines.builder import ENGINE
from autotune.profiler.engines.engine_process import EngineProcess

_ROUNDS = 60


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
    options = parser.parse_args()
    batch, length = map(int, options.shape.split("x"))
    workload = Workload(batch_size=batch, sequence_length=length)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
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
            for run in made["tuned"]["engines"]:
                rows.append(row(name, loaded, run, made, workload, options.dtype))
                print(line(rows[-1]), flush=True)
    print(json.dumps(rows))


def row(
    name: str, loaded: LoadedModel, run: str, made: dict[str, Any], workload: Workload, dtype: str
) -> dict[str, Any]:
    """One pass of one model."""
    batch, length = workload.batch_size, workload.sequence_length
    feeds = {k: v.numpy() for k, v in example_inputs(loaded, run, batch, length).items()}
    with EngineProcess() as engines:
        numbers = {
            kind: engines.load(Path(record["output"]) / run / ENGINE, feeds)
            for kind, record in made.items()
        }
        timed = in_turn({kind: lambda n=n: engines.seconds(n) for kind, n in numbers.items()})  # type: ignore[misc]
    tokens = batch * (length if run == "prefill" else 1)
    saved = sum(dense - pair for dense, pair in layer_seconds(loaded, tokens, dtype))
    dense_s = statistics.median(timed["dense"])
    ratios = sorted(a / b for a, b in zip(timed["tuned"], timed["dense"], strict=True))
    engine = made["tuned"]["engines"][run]
    return {
        "model": Path(name).name,
        "pass": run,
        "shape": [batch, length],
        "tensorrt": engine["tensorrt"],
        "opset": made["tuned"]["opset"],
        "dense_latency_s": dense_s,
        "latency_s": statistics.median(timed["tuned"]),
        "measured_ratio": statistics.median(ratios),
        "measured_ratio_low": ratios[len(ratios) // 20],
        "measured_ratio_high": ratios[-1 - len(ratios) // 20],
        "predicted_ratio": 1 - saved / dense_s,
        "build_seconds": {kind: one["engines"][run]["seconds"] for kind, one in made.items()},
        "engine_bytes": {kind: one["engines"][run]["engine_bytes"] for kind, one in made.items()},
        "output_types": engine["output_types"],
        "parity": [[c["batch_size"], c["length"], c["error"]] for c in engine["cases"]],
    }


def in_turn(runs: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Seconds of every alternative, called one after the other in every round."""
    found: dict[str, list[float]] = {kind: [] for kind in runs}
    for index in range(_ROUNDS + 5):
        for kind, run in runs.items():
            seconds = run()
            if index >= 5:
                found[kind].append(seconds)
    return found


def layer_seconds(loaded: LoadedModel, tokens: int, dtype: str) -> list[tuple[float, float]]:
    """Dense and low-rank seconds of every factorized layer, each shape timed once."""
    backend = TensorRT()
    known: dict[LayerShape, tuple[float, float]] = {}
    pairs = []
    for layer in low_rank_layers(loaded.model).values():
        shape = LayerShape(
            tokens=tokens,
            in_features=layer.in_features,
            out_features=layer.out_features,
            form=low_rank(layer.rank),
            dtype=dtype,
        )
        if shape not in known:
            timed = {"dense": backend.layer(shape.dense, 1), "pair": backend.layer(shape, 1)}
            runs: Any = {kind: one.run for kind, one in timed.items()}
            seconds = in_turn(runs)
            known[shape] = tuple(  # type: ignore[assignment]
                statistics.median(seconds[kind]) / timed[kind].copies for kind in timed
            )
        pairs.append(known[shape])
    return pairs


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
