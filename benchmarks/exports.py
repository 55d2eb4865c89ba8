"""Sizes and latency of what a tuning hands out, against its dense equivalent.

    python benchmarks/exports.py --model RUN [--model RUN …]

RUN is the folder of a tuning on this CPU. Checkpoint, ONNX fp32 and ONNX fp16 of both are written
and their sizes compared with the parameters; the fp32 graphs are called in turn in onnxruntime on
the workload of the tuning. Prints a table; the last line is one JSON document, a list of rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from autotune.core.progress import no_progress
from autotune.export.dense import merge
from autotune.export.graphs import open_checkpoint
from autotune.export.onnx import export_onnx
from autotune.export.tensorrt import example_inputs
from autotune.results.measured import MeasuredPass
from autotune.results.record import TuneRecord
from autotune.results.result import read_result
from autotune.tuning.machines import local_machine
from autotune.tuning.options import MachineOptions


def main() -> None:
    """Write, weigh, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True)
    options = parser.parse_args()
    rows = []
    for name in options.model:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(row(Path(name), Path(scratch)))
        print(line(rows[-1]), flush=True)
    print(json.dumps(rows))


def row(run: Path, scratch: Path) -> dict[str, Any]:
    """One tuning."""
    record = read_result(run)
    dense = merge(run, scratch / "dense")
    sizes: dict[str, float] = {"checkpoint": weights(run / "model") / weights(dense)}
    for dtype in ("fp32", "fp16"):
        graphs = [
            Path(export_onnx(folder, scratch / f"{kind}-{dtype}", dtype=dtype)["output"])
            for kind, folder in (("tuned", run), ("plain", dense))
        ]
        tuned, plain = (sum(p.stat().st_size for p in g.glob("model.onnx*")) for g in graphs)
        sizes[f"onnx {dtype}"] = tuned / plain
    kept = record.parameters.compressed / record.parameters.dense
    timed = latency(record, scratch)
    return {
        "model": record.model,
        "parameters": kept,
        "sizes": sizes,
        "measured_ratio": timed.ratio,
        "measured_ratio_low": timed.ratio_low,
        "measured_ratio_high": timed.ratio_high,
        "tuned_ratio": record.measured_ratio,
        "predicted_ratio": record.predicted_ratio,
    }


def weights(folder: Path) -> int:
    """Bytes of the safetensors files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def latency(record: TuneRecord, scratch: Path) -> MeasuredPass:
    """The exported fp32 graphs in turn, on the workload of the tuning."""
    loaded, _ = open_checkpoint(scratch / "dense", "fp32")
    shape = record.workload
    feeds = example_inputs(loaded, "prefill", batch=shape.batch_size, length=shape.sequence_length)
    save_file({k: v.numpy() for k, v in feeds.items()}, scratch / "inputs.safetensors")
    both = (scratch / "plain-fp32" / "model.onnx", scratch / "tuned-fp32" / "model.onnx")
    options = MachineOptions(
        device=record.device.device,
        backend=record.backend,
        dtype=record.dtype,
        threads=record.device.threads,
        measure_seconds=20.0,
    )
    with local_machine(options) as machine:
        timing = machine.compare(
            both, scratch / "inputs.safetensors", final=True, advance=no_progress
        )
    return MeasuredPass.of("prefill", timing)


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    sizes = "  ".join(f"{name} {size:.3f}" for name, size in found["sizes"].items())
    return (
        f"{Path(found['model']).name:20s} parameters {found['parameters']:.3f}  {sizes}  latency "
        f"{found['measured_ratio']:.3f} ({found['measured_ratio_low']:.3f} to "
        f"{found['measured_ratio_high']:.3f})  predicted {found['predicted_ratio']:.3f}"
    )


if __name__ == "__main__":
    main()
