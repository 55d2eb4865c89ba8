"""A tuning that is killed again and again ends with the result of one that was left alone.

    python benchmarks/resume.py --model tests/data/code-llama-3m --kills 20 --seed 0

The command runs in a process group of its own and is killed (SIGKILL to the whole group) at random
moments of the time that an undisturbed tuning takes; then the same command is started again. Both
share nothing but the latency database, so that layers are measured once. The last line is one JSON
document.
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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(Path(folder), arguments)))


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Tune undisturbed, then killed; what both ended with."""
    os.environ["AUTOTUNE_DB"] = str(folder / "latency.sqlite")
    started_s = time.monotonic()
    alone = _start(arguments.model, folder / "alone").wait()
    whole_s = time.monotonic() - started_s
    print(f"undisturbed: exit code {alone}, {whole_s:.0f} s")
    draw, killed, completed = random.Random(arguments.seed), 0, 0
    output = folder / "killed"
    for number in range(arguments.kills):
        after_s = draw.uniform(0.0, whole_s)
        process = _start(arguments.model, output)
        try:
            process.wait(timeout=after_s)
            completed += 1
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        entries = sorted({path.name.rpartition("-")[0] for path in output.glob(".cache/*-*")})
        print(f"{number + 1:3d}: killed after {after_s:5.1f} s, kept {', '.join(entries)}")
    code = _start(arguments.model, output).wait()
    first, last = read_result(folder / "alone"), read_result(output)
    again = bench(output, Reporter())
    return {
        "kills": killed,
        "completed_before_the_kill": completed,
        "exit_code": code,
        "verdicts": [str(first.verdict), str(last.verdict)],
        "ratios": [first.measured_ratio, last.measured_ratio],
        "quality": [first.quality.compressed, last.quality.compressed],
        "same_plan": dict(first.plan) == dict(last.plan),
        "bench_ratio": again.ratio,
        "leftovers": len(list(output.rglob(".*.part"))),
    }


def _start(model: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "autotune", "tune", "--model", str(model), *_OPTIONS]
    return subprocess.Popen(
        [*command, "--output", str(output), "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    main()
