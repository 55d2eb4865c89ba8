"""Seconds of each site inside a running ONNX network, from onnxruntime's own profile.

A neighbour that slows the machine slows all nodes of a run alike, so shares of the whole stay: on a
busy machine, layers timed beside the network summed to 0.73 to 0.96 of it, their nodes to 0.67 to
0.70 (benchmarks/results/).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import MeasurementError

_MIN_RUNS = 8
_MAX_RUNS = 50
_MAX_SECONDS = 6.0
_LIMIT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class SiteProfile:
    """Median seconds of one run: of all nodes together, and of each site's one or two."""

    total_s: float
    sites_s: dict[str, float]


def profile_sites(artefact: Path, inputs: Path, threads: int, sites: Sequence[str]) -> SiteProfile:
    """Time the nodes `<site>` and `<site>.down` inside the network, in a fresh process.

    Raises:
        MeasurementError: the process failed or took too long, or a site has no node of its own.
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
    owners: dict[str, float] = defaultdict(float)
    for name, seconds in nodes.items():
        # A node that onnxruntime fused keeps its name before a slash: `<site>/MatMulAddFusion`.
        owners[name.partition("/")[0].removesuffix(".down")] += seconds
    missing = [site for site in sites if site not in owners]
    if missing:
        raise MeasurementError(f"onnxruntime's profile of {artefact} has no node {missing[0]}")
    return SiteProfile(total_s=sum(nodes.values()), sites_s={site: owners[site] for site in sites})


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
        deadline = time.monotonic() + _MAX_SECONDS
        for done in range(_MAX_RUNS):
            if done >= _MIN_RUNS and time.monotonic() >= deadline:
                break
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
