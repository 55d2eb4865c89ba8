"""Tunings that are killed again and again end as one that was left alone does.

    python benchmarks/resume.py --model tests/data/code-llama-3m --kills 20 --seed 0
    python benchmarks/resume.py --model tests/data/code-llama-3m -- --farm HOST:PORT --token-file T

The command runs in a process group of its own and is killed (SIGKILL to the whole group) at random
moments of the time that an undisturbed tuning takes; then the same command is started again. A run
that ends before its moment is compared with the undisturbed one, and the next tuning begins in a
new folder, until there were as many kills as asked for. All share the latency database, so that
layers are measured once. What follows `--` is given to every tuning: on a farm, its coordinator
and workers stay. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autotune.core.progress import Reporter
from autotune.results.result import read_result
from autotune.tuning.bench import bench

_OPTIONS = (
    *("--latency-budget", "0.95x", "--batch-size", "1", "--isl", "64"),
    *("--trials", "2", "--calibration-samples", "64"),
)


def main() -> None:
    """Print one line per kill, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="Further options of `autotune tune`.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(Path(folder), arguments)))


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Tune undisturbed, then killed; what all ended with."""
    os.environ["AUTOTUNE_DB"] = str(folder / "latency.sqlite")
    started_s = time.monotonic()
    alone = _start(arguments, folder / "alone").wait()
    whole_s = time.monotonic() - started_s
    print(f"undisturbed: exit code {alone}, {whole_s:.0f} s", flush=True)
    draw, killed, ended = random.Random(arguments.seed), 0, []
    output = folder / "killed-0"
    while killed < arguments.kills:
        after_s = draw.uniform(0.0, whole_s)
        process = _start(arguments, output)
        try:
            ended.append(_outcome(output, process.wait(timeout=after_s)))
            print(f"tuning {len(ended)} ended: {ended[-1]}", flush=True)
            output = folder / f"killed-{len(ended)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            entries = sorted({path.name.rpartition("-")[0] for path in output.glob(".cache/*-*")})
            kept = ", ".join(entries) or "nothing"
            print(f"{killed:3d}: killed after {after_s:5.1f} s, kept {kept}", flush=True)
    ended.append(_outcome(output, _start(arguments, output).wait()))
    return {
        "kills": killed,
        "undisturbed": _outcome(folder / "alone", alone),
        "after_kills": ended,
        "bench_ratio": bench(output, Reporter()).ratio,
    }


def _outcome(output: Path, code: int) -> dict[str, object]:
    """What a tuning that has ended left in its folder."""
    result = read_result(output)
    return {
        "exit_code": code,
        "verdict": str(result.verdict),
        "ratio": result.measured_ratio,
        "quality": result.quality.compressed,
        "leftovers": len(list(output.rglob(".*.part"))),
    }


def _start(arguments: argparse.Namespace, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "autotune", "tune", "--model", str(arguments.model), *_OPTIONS]
    return subprocess.Popen(
        [*command, *arguments.options, "--output", str(output), "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    main()
