"""What a backend can run and time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autotune.profiler.timing import Runner
from autotune.types import LayerShape

_TARGET_FLOPS = 400e6
_MAX_COPIES = 8
_MAX_COPY_BYTES = 256e6


@dataclass(frozen=True, kw_only=True)
class TimedLayer:
    """A prepared layer: one call of `run` executes it `copies` times, on different weights."""

    run: Runner
    copies: int


class Backend(ABC):
    """One way to execute a model on a device.

    Contract:
    - `missing()` is None when everything needed is installed, else one sentence on what to install.
    - `layer(shape, threads)` prepares (M × K)·(K × N) without bias, or its pair when the shape has
      a rank; weights are random and distinct per copy, inputs and outputs preallocated. Calling
      `run` returns after the work is done.
    - `network(artefact, inputs, threads, loader)` prepares a whole model in the same way; `inputs`
      is a safetensors file of its named inputs; `loader` ("module:function") turns the artefact
      into a callable where the backend cannot open it itself.
    - Nothing is timed here; a backend holds no state between calls.
    """

    name: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    device_kinds: tuple[str, ...]
    # Whether a running network tells what each of its layers takes (profiler/nodes.py).
    profiles_nodes: bool = False

    def missing(self) -> str | None:
        """What to install, or None."""
        for package in self.packages:
            if package not in self.versions():
                return f"backend {self.name} needs {package}: pip install {package}"
        return None

    def versions(self) -> dict[str, str]:
        """Versions of the packages that do the work."""
        found = {}
        for package in self.packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
        return found

    def settings(self) -> dict[str, str]:
        """Options that change latency, for the fingerprint."""
        return {}

    @abstractmethod
    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """Prepare one layer."""

    @abstractmethod
    def network(
        self, artefact: Path, inputs: Path, threads: int, loader: str | None = None
    ) -> Runner:
        """Prepare a whole model."""


def copy_count(shape: LayerShape, itemsize: int) -> int:
    """Copies that make one call long enough to time and weights change between them."""
    wanted = max(1, round(_TARGET_FLOPS / max(shape.flops, 1)))
    affordable = max(1, int(_MAX_COPY_BYTES / max(shape.parameters * itemsize, 1)))
    return int(min(wanted, affordable, _MAX_COPIES))


def load_inputs(path: Path) -> dict[str, Any]:
    """The arrays of a safetensors file, by input name."""
    from safetensors.numpy import load_file

    return dict(load_file(path))
