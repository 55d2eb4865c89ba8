"""Tunings beside a busy neighbour, each judged by a repetition in quiet.

    python benchmarks/busy.py --rows busy.jsonl --small 50 --main 10

A row is one tuning with an empty latency database while benchmarks/neighbour.py runs, as a user who
may not raise priorities, then `bench` of the same folder without the neighbour. `small` rows tune
tests/data/code-llama-3m to 0.9x with short measurements (AUTOTUNE_MEASURE_SECONDS=5), `main` rows
run what `make tune` ran until it asked for a floor. A verdict is contradicted where the quiet 95 %
interval lies wholly on the other side of the limit. The ratio of every layer that a small row
measured is compared with the median of three that were measured in quiet at the beginning, a minute
in all. Rows that the file holds are not run again. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autotune.core.quantities import parse_quantity
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Measurement, measured_rows

_ROOT = Path(__file__).parents[1]
_LLAMA = _ROOT / "tests" / "data" / "code-llama-3m"
_ORDINARY = ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice")
_SMALL_WORKLOAD = ("--batch-size", "1", "--isl", "128")
TUNINGS: Mapping[str, Sequence[str]] = {
    "small": (
        *("--model", str(_LLAMA), "--latency-budget", "0.9x", *_SMALL_WORKLOAD),
        *("--calibration", str(_LLAMA / "heldout.txt"), "--calibration-samples", "16"),
        *("--trials", "0", "--sensitivity-rounds", "0", "--allow-quality-loss"),
    ),
    # `make tune` asks for a floor now; with a limit there is a verdict to contradict.
    "main": (
        *("--device", "cpu", "--latency-budget", "0.85x"),
        *("--precision", "native", "--factors", "plain"),
    ),
}
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {
    "small": {"AUTOTUNE_MEASURE_SECONDS": "5"},
    "main": {},
}
_ENDED = (0, 1, 5)
_QUIET = 3


def main() -> None:
    """One line a row, and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="the file that rows are added to")
    parser.add_argument("--small", type=int, default=50)
    parser.add_argument("--main", type=int, default=10)
    options = parser.parse_args()
    file: Path = options.rows
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["kind"], row["number"]) for row in known}
    for kind, count in (("small", options.small), ("main", options.main)):
        wanted = [number for number in range(count) if (kind, number) not in done]
        with tempfile.TemporaryDirectory() as text:
            quiet = _quiet_points(Path(text)) if wanted and kind == "small" else {}
            for number in wanted:
                row = {
                    "kind": kind,
                    "number": number,
                    **_row(kind, Path(text), number=number, quiet=quiet),
                }
                known.append(row)
                with file.open("a") as out:
                    out.write(json.dumps(row) + "\n")
                print({name: value for name, value in row.items() if name != "points"}, flush=True)
    print(json.dumps({kind: _summary([r for r in known if r["kind"] == kind]) for kind in TUNINGS}))


def _row(kind: str, home: Path, *, number: int, quiet: Mapping[Any, float]) -> dict[str, Any]:
    """Tune beside the neighbour, repeat in quiet."""
    output, database = home / "out", home / "busy.sqlite"
    shutil.rmtree(output, ignore_errors=True)
    database.unlink(missing_ok=True)
    started_s = time.monotonic()
    with neighbour(number):
        arguments = ("tune", *TUNINGS[kind], "--output", str(output), "--db", str(database))
        record = run(*arguments, environment=ENVIRONMENT[kind])
    seconds = time.monotonic() - started_s
    again = run("bench", str(output))
    limit = parse_quantity(record["budget"]["latency"], "latency").value
    points = [
        (each.converged, each.ratio_low <= quiet[each.shape] <= each.ratio_high)
        for each in _points(database)
        if each.shape in quiet and each.shape.rank
    ]
    return {
        "verdict": record["verdict"],
        "seconds": round(seconds),
        "rounds": len(record["rounds"]),
        "predicted": record["predicted_ratio"],
        "busy": [record[f"measured_ratio{end}"] for end in ("", "_low", "_high")],
        "quiet": [again[f"ratio{end}"] for end in ("", "_low", "_high")],
        "contradicted": (record["verdict"] == "met" and again["ratio_low"] > limit)
        or (record["verdict"] == "missed" and again["ratio_high"] < limit),
        "points": points,
    }


def _quiet_points(home: Path) -> dict[Any, float]:
    """The ratio to dense of every layer of the small model, measured without the neighbour."""
    found = collections.defaultdict(list)
    for number in range(_QUIET):
        database = home / f"quiet-{number}.sqlite"
        run("profile", "--for", str(_LLAMA), *_SMALL_WORKLOAD, "--db", str(database))
        for each in _points(database):
            found[each.shape].append(each.ratio)
    return {shape: statistics.median(ratios) for shape, ratios in found.items()}


def _points(path: Path) -> list[Measurement]:
    with LatencyDatabase(path) as database:
        return [
            each for name in database.fingerprints() for each in measured_rows(database.rows(name))
        ]


def run(
    *arguments: str, environment: Mapping[str, str] = MappingProxyType({}), root: Path = _ROOT
) -> dict[str, Any]:
    """A command of the version in `root`, as an ordinary user runs it; its JSON."""
    prefix = _ORDINARY if os.geteuid() == 0 else ()
    command = (*prefix, sys.executable, "-m", "autotune", *arguments, "--format", "json")
    done = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    if done.returncode not in _ENDED:
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def neighbour(seed: int) -> Iterator[None]:
    """The neighbour for as long as the block lasts."""
    command = (sys.executable, str(_ROOT / "benchmarks" / "neighbour.py"), str(seed))
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Verdicts, contradictions, and how many points hold the quiet ratio in their interval."""
    points = [tuple(point) for row in rows for point in row["points"]]
    settled = [held for converged, held in points if converged]
    return {
        "rows": len(rows),
        **collections.Counter(row["verdict"] for row in rows),
        "contradicted": sum(row["contradicted"] for row in rows),
        "points": len(points),
        "coverage": sum(held for _, held in points) / len(points) if points else None,
        "settled": len(settled),
        "settled_coverage": sum(settled) / len(settled) if settled else None,
        "median_seconds": statistics.median(row["seconds"] for row in rows) if rows else None,
    }


if __name__ == "__main__":
    main()
