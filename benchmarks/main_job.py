"""The main job end to end on this CPU: the embedded encoder and code-llama-28m.

    python benchmarks/main_job.py [--models DIR] [--only minilm,code-llama-28m] [--output DIR]

DIR holds code-llama-28m with its heldout.txt: the first half calibrates, the last quarter judges.
Prints a table; the last line is one JSON document, a list of rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autotune.results.codec import encode
from autotune.results.record import TuneRecord
from autotune.results.result import read_result


def command_lines(models: Path | None, work: Path) -> dict[str, list[str]]:
    """The tuning command of each model."""
    lines = {"minilm": ["--device", "cpu", "--backend", "auto", "--quality-floor", "0.99"]}
    if models is not None:
        model = models / "code-llama-28m"
        text = (model / "heldout.txt").read_text()
        (work / "first-half.txt").write_text(text[: len(text) // 2])
        (work / "last-quarter.txt").write_text(text[-len(text) // 4 :])
        lines["code-llama-28m"] = [
            "--model",
            str(model),
            "--device",
            "cpu",
            "--latency-budget",
            "0.9x",
            "--batch-size",
            "1",
            "--isl",
            "512",
            "--calibration",
            str(work / "first-half.txt"),
            "--evaluation",
            str(work / "last-quarter.txt"),
        ]
    return lines


def run(arguments: list[str], folder: Path) -> tuple[TuneRecord, float]:
    """The record of one tuning and its seconds."""
    command = [sys.executable, "-m", "autotune", *arguments, "--output", str(folder)]
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    assert done.returncode in (0, 1, 5), done.returncode  # met, missed, undecided
    return read_result(folder), time.monotonic() - started


def main() -> None:
    """Run the chosen models twice: fresh, and with everything cached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--only", default="minilm,code-llama-28m")
    parser.add_argument("--output", type=Path, default=Path("autotune-out/benchmark"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, arguments in command_lines(options.models, options.output).items():
        if name not in options.only.split(","):
            continue
        folder = options.output / name
        record, seconds = run(arguments, folder)
        _, cached_s = run(arguments, folder)
        rows.append(
            row(name, arguments, record=record, seconds=seconds) | {"cached_seconds": cached_s}
        )
    for one in rows:
        print(
            f"{one['model']:16s} ratio {one['ratio']:.3f} ({one['ratio_low']:.3f} to "
            f"{one['ratio_high']:.3f}) predicted {one['predicted_ratio']:.3f}; "
            f"{one['quality']['metric']} {one['quality']['compressed']:.4f} (dense "
            f"{one['quality']['dense']:.4f}); {one['seconds']:.0f} s, again "
            f"{one['cached_seconds']:.0f} s, {one['peak_memory_bytes'] / 1e9:.2f} GB"
        )
    print(json.dumps(rows))


def row(name: str, arguments: list[str], *, record: TuneRecord, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    measured, predicted_s = record.measured, record.predicted_latency_s
    assert measured is not None, "the main job runs on this CPU"
    return {
        "model": name,
        "arguments": " ".join(arguments),
        "device": record.device.device_name,
        "threads": record.device.threads,
        "within_budget": record.within_budget,
        "verdict": record.verdict.value,
        "ratio": measured.ratio,
        "ratio_low": measured.ratio_low,
        "ratio_high": measured.ratio_high,
        "latency_s": measured.latency_s,
        "dense_latency_s": record.dense_latency_s,
        "predicted_ratio": record.predicted_ratio,
        "prediction_error": record.predicted_ratio / measured.ratio - 1,
        "latency_error": predicted_s / measured.latency_s - 1,
        "quality": encode(record.quality),
        "parameters": encode(record.parameters),
        "seconds": seconds,
        "peak_memory_bytes": record.cost.peak_memory_bytes,
        "rounds": encode(record.rounds),
        "knobs": encode(record.knobs),
        "certified_gap": record.solver.certified_gap,
    }


if __name__ == "__main__":
    main()
