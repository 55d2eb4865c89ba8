"""Seconds of each site inside a running ONNX network, from the backend's own profile.

A neighbour that slows the machine slows all nodes of a run alike, so shares of the whole stay: on a
busy machine, layers timed beside the network summed to 0.73 to 0.96 of it, their nodes to 0.67 to
0.70 (benchmarks/results/).
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.child_errors import ChildDiedError, ChildError, ChildTimeoutError
from autotune.core.childprocess import ChildProcess, end_with_parent
from autotune.core.errors import MeasurementError
from autotune.core.progress import Advance, no_progress
from autotune.devices.lock import device_lock
from autotune.profiler.backends import make_backend

_MIN_RUNS = 8
_MAX_RUNS = 50
_MAX_SECONDS = 6.0
_LIMIT_S = 300.0
_ATTEMPTS = 3
_COMMAND = (sys.executable, "-m", "autotune.profiler.measure.nodes")


@dataclass(frozen=True, kw_only=True)
class SiteProfile:
    """Median seconds of one run: of all nodes together, and of each site's one or two."""

    total_s: float
    sites_s: dict[str, float]


def profile_sites(
    artefact: Path,
    inputs: Path,
    *,
    threads: int,
    sites: Sequence[str],
    backend: str = "onnxruntime-cpu",
    progress: Advance = no_progress,
) -> SiteProfile | None:
    """Time the nodes `<site>` and `<site>.down` inside the network, in a fresh process.

    None where the backend left a site without a node of its own.

    Raises:
        MeasurementError: the process failed or took too long.
    """
    request = {
        "backend": backend,
        "artefact": str(artefact),
        "inputs": str(inputs),
        "threads": threads,
    }
    nodes = _in_fresh_process(request, progress)
    owners: dict[str, float] = defaultdict(float)
    for name, seconds in nodes.items():
        owners[_owner(name)] += seconds
    if any(site not in owners for site in sites):
        return None
    return SiteProfile(total_s=sum(nodes.values()), sites_s={site: owners[site] for site in sites})


def _owner(node: str) -> str:
    """The site of a node. One that onnxruntime fused keeps the name of its product.

    It is followed by a slash (`<site>/MatMulAddFusion`), or preceded by "fused" where an activation
    was taken into the product.
    """
    return node.removeprefix("fused ").partition("/")[0].removesuffix(".down")


def _in_fresh_process(request: Mapping[str, Any], progress: Advance) -> dict[str, float]:
    """Seconds by node. A process that was killed says nothing of the network: it is tried again.

    Raises:
        MeasurementError: the process failed or took too long, or was killed every time.
    """
    failed = f"profiling {request['artefact']} failed"
    for attempt in range(_ATTEMPTS):
        try:
            with device_lock("cpu"), ChildProcess(_COMMAND, threads=request["threads"]) as child:
                child.send(request, last=True)
                return _nodes(child, progress)
        except ChildDiedError as error:
            if error.death.signal is None or attempt + 1 == _ATTEMPTS:
                raise MeasurementError(f"{failed}: {error}") from error
        except ChildError as error:
            raise MeasurementError(f"{failed}: {error}") from error
    raise AssertionError("the last attempt returns or raises")


def _nodes(child: ChildProcess, progress: Advance) -> dict[str, float]:
    """The seconds that the process reports at last; its progress until then is passed on."""
    deadline = time.monotonic() + _LIMIT_S
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ChildTimeoutError(_LIMIT_S)
        message = child.receive(left)
        if "nodes" in message:
            nodes: dict[str, float] = message["nodes"]
            return nodes
        progress(message["done"], _MAX_RUNS)


def node_latencies(
    artefact: Path,
    inputs: Path,
    *,
    threads: int,
    backend: str = "onnxruntime-cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Median seconds per run of every node, by name; `progress` is called after every run."""
    runs = _Runs(progress)
    return make_backend(backend).node_latencies(artefact, inputs, threads=threads, again=runs.again)


class _Runs:
    """How often a network is run: for a time, but not too few or too many times."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress
        self._asked = 0
        self._deadline: float | None = None

    def again(self) -> bool:
        """Whether to run it once more; the time begins with the first run."""
        now = time.monotonic()
        self._deadline = now + _MAX_SECONDS if self._deadline is None else self._deadline
        done, self._asked = self._asked, self._asked + 1
        if done:
            self._progress(done)
        return done < _MIN_RUNS or (done < _MAX_RUNS and now < self._deadline)


def _send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    task = json.load(sys.stdin)
    nodes = node_latencies(
        Path(task["artefact"]),
        Path(task["inputs"]),
        threads=task["threads"],
        backend=task["backend"],
        progress=lambda done: _send({"done": done}),
    )
    _send({"nodes": nodes})
