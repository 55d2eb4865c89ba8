"""Seconds of each site inside a running ONNX network, from onnxruntime's own profile.

A neighbour that slows the machine slows all nodes of a run alike, so shares of the whole stay: on a
busy machine, layers timed beside the network summed to 0.73 to 0.96 of it, their nodes to 0.67 to
0.70 (benchmarks/results/).
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.errors import MeasurementError
from autotune.devices.lock import device_lock

_MIN_RUNS = 8
_MAX_RUNS = 50
_MAX_SECONDS = 6.0
_LIMIT_S = 300.0
_ATTEMPTS = 3
_KILLED = "its process ended with signal"


@dataclass(frozen=True, kw_only=True)
class SiteProfile:
    """Median seconds of one run: of all nodes together, and of each site's one or two."""

    total_s: float
    sites_s: dict[str, float]


def profile_sites(
    artefact: Path, inputs: Path, threads: int, sites: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SiteProfile:  # fmt: skip
    """Time the nodes `<site>` and `<site>.down` inside the network, in a fresh process.

    Raises:
        MeasurementError: the process failed or took too long, or a site has no node of its own.
    """
    request = json.dumps({"artefact": str(artefact), "inputs": str(inputs), "threads": threads})
    nodes, why = None, ""
    for _ in range(_ATTEMPTS):  # a process that somebody killed says nothing of the network
        nodes, why = _in_fresh_process(request, progress)
        if nodes is not None or not why.startswith(_KILLED):
            break
    if nodes is None:
        raise MeasurementError(f"profiling {artefact} failed: {why}")
    owners: dict[str, float] = defaultdict(float)
    for name, seconds in nodes.items():
        # A node that onnxruntime fused keeps its name before a slash: `<site>/MatMulAddFusion`.
        owners[name.partition("/")[0].removesuffix(".down")] += seconds
    missing = [site for site in sites if site not in owners]
    if missing:
        raise MeasurementError(f"onnxruntime's profile of {artefact} has no node {missing[0]}")
    return SiteProfile(total_s=sum(nodes.values()), sites_s={site: owners[site] for site in sites})


def _in_fresh_process(
    request: str, progress: Callable[[int, int], None]
) -> tuple[dict[str, float] | None, str]:
    """Seconds by node; or None, and why."""
    with device_lock("cpu"), tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "autotune.profiler.measure.nodes"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        guard = threading.Timer(_LIMIT_S, give_up)
        guard.start()
        message: dict[str, Any] = {}
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # killed already: its exit code says so
                process.stdin.write(request)
                process.stdin.close()
            for line in process.stdout:
                message = json.loads(line)
                if "done" in message:
                    progress(message["done"], _MAX_RUNS)
        finally:
            guard.cancel()
            process.kill()
            code = process.wait()
        if "nodes" in message:
            return message["nodes"], ""
        if late.is_set():
            return None, f"it took longer than {_LIMIT_S:.0f} s"
        if code < 0:
            return None, f"{_KILLED} {-code}"
        log.seek(0)
        said = log.read().strip().splitlines()[-1:] or [f"exit code {code}"]
        return None, said[0][:500]


def node_latencies(
    artefact: Path, inputs: Path, threads: int, tell: Callable[[int], None] = lambda done: None
) -> dict[str, float]:
    """Median seconds per run of every node, by name; `tell` hears of every run."""
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
            tell(done + 1)
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["name"].removesuffix("_kernel_time")].append(event["dur"] * 1e-6)
    # The first run warms up.
    return {name: statistics.median(values[1:] or values) for name, values in durations.items()}


def _send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    task = json.load(sys.stdin)
    paths = Path(task["artefact"]), Path(task["inputs"])
    _send({"nodes": node_latencies(*paths, task["threads"], lambda done: _send({"done": done}))})
