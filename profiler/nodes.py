"""Seconds of each site inside a running ONNX network, from onnxruntime's own profile."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from autotune.errors import MeasurementError

_RUNS = 12
_LIMIT_S = 300.0


def site_latencies(
    artefact: Path, inputs: Path, threads: int, sites: Sequence[str]
) -> dict[str, float]:
    """Median seconds per run of the nodes `<site>` and `<site>.down`, in a fresh process.

    Raises:
        MeasurementError: the process failed or took too long.
    """
    request = json.dumps({"artefact": str(artefact), "inputs": str(inputs), "threads": threads})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "autotune.profiler.nodes"], input=request,
            capture_output=True, text=True, timeout=_LIMIT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise MeasurementError(f"profiling {artefact} failed: {error}") from error
    nodes: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {site: nodes[site] + nodes.get(f"{site}.down", 0.0) for site in sites if site in nodes}


def node_latencies(artefact: Path, inputs: Path, threads: int) -> dict[str, float]:
    """Median seconds per run of every node, by name."""
    import onnxruntime

    from autotune.profiler.backends.base import load_inputs
    from autotune.profiler.backends.onnxruntime_cpu import session_options

    feeds = load_inputs(inputs)
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            str(artefact), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(_RUNS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["name"].removesuffix("_kernel_time")].append(event["dur"] * 1e-6)
    # The first run warms up.
    return {name: statistics.median(values[1:] or values) for name, values in durations.items()}


if __name__ == "__main__":
    task = json.load(sys.stdin)
    measured = node_latencies(Path(task["artefact"]), Path(task["inputs"]), task["threads"])
    sys.stdout.write(json.dumps(measured) + "\n")
