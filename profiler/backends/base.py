"""What a backend can run and time."""

from __future__ import annotations

import functools
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from autotune.core.forms import NATIVE, Form
from autotune.core.layers import LayerShape
from autotune.devices.detect import (
    gpu_cache_bytes,
    gpu_names,
    has_int8_products,
    no_gpu,
)
from autotune.devices.specs import DTYPE_BYTES
from autotune.profiler.measure.timing import Runner

_TARGET_FLOPS = 400e6
_MAX_COPIES = 8
_MAX_COPY_BYTES = 256e6
_ROTATION = 2.5
_MAX_ROTATION = 256


@dataclass(frozen=True, kw_only=True)
class TimedLayer:
    """A prepared layer: one call of `run` executes it `copies` times, on different weights."""

    run: Runner
    copies: int


class OpenNetwork(Protocol):
    """A whole model with its inputs, on a device."""

    def run(self) -> object:
        """Run the network once on the inputs it was opened with; returns its output.

        A compiler removes work whose result is not returned.
        """


class NetworkLoader(Protocol):
    """Opens a whole model and a file of its inputs on a device such as "cuda"."""

    def __call__(self, model: Path, inputs: Path, /, *, device: str) -> OpenNetwork:
        """The network, ready to be run."""


class Backend(ABC):
    """One way to execute a model on a device, "cpu" or "cuda" (default: the first it runs on).

    Contract:
    - `missing()` is None when everything needed is installed, else one sentence on what to install.
    - `layer(shape, threads)` prepares (M × K)·(K × N) without bias, or its pair when the shape has
      a rank; weights are random and distinct per copy, inputs and outputs preallocated. Calling
      `run` returns after the work is done; no compiler may find that nobody needs it.
    - `network(artefact, inputs, threads, loader)` prepares a whole model in the same way; `inputs`
      is a safetensors file of its named inputs; `loader` opens both on a device where the backend
      cannot open them itself.
    - `run` returns None, or the seconds that the device itself counted where it can count them.
    - Nothing else is timed here; a backend holds no state between calls.
    """

    name: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    device_kinds: tuple[str, ...]
    # What preparing one layer or network may take, where it is no matter of seconds.
    prepare_limit_s = 0.0
    # Of one dense layer, measured before a plan says which others matter.
    ranks_per_shape = 24
    # Whether a running network tells what each of its layers takes (profiler/measure/nodes.py).
    profiles_nodes: bool = False
    # Whether `network` opens the ONNX graphs of `autotune export`.
    opens_onnx: bool = False

    def __init__(self, device: str | None = None) -> None:
        self.device = device or self.device_kinds[0]

    def missing(self) -> str | None:
        """What to install, or None."""
        for package in self.packages:
            number = self.versions().get(package)
            if number is None:
                return f"backend {self.name} needs {package}: pip install {package}"
            fault = _fault(package)
            if fault is not None:
                return (
                    f"backend {self.name} needs {package}, and {package} {number} cannot be "
                    f"imported ({fault}): pip install --force-reinstall {package}"
                )
        if self.device == "cuda" and not gpu_names():
            return no_gpu(f"backend {self.name}")
        return None

    def versions(self) -> dict[str, str]:
        """Versions of the packages that do the work."""
        found = {}
        for package in self.packages:
            number = _version(package)
            if number is not None:
                found[package] = number
        return found

    def settings(self) -> dict[str, str]:
        """Options that change latency, for the fingerprint."""
        return {}

    def builder_for(self, dtype: str) -> str:
        """The name of the builder (autotune/tuning/builders.py) that makes what `network` opens."""
        del dtype
        return "checkpoint"

    def pin(self, threads: int) -> None:
        """Give each thread a processor of its own, if they take all there are.

        For the process that measures, before anything is prepared. Backends that cannot leave the
        threads where the system puts them.
        """
        del threads

    def implements(self, form: Form) -> bool:
        """Whether `layer` runs layers of this form; by default all in the model's own dtype."""
        return form.precision == NATIVE

    def runs_int8(self) -> bool:
        """Whether the processor multiplies 8-bit integers well, and without cutting their sums.

        Without such instructions x86 adds pairs of products in 16 bits, which overflow.
        """
        return self.device == "cpu" and has_int8_products()

    def inference_dtypes(self, dtype: str) -> tuple[str, ...]:
        """In what dtypes a model of `dtype` may be run here, its own first.

        `layer` takes shapes of each of them, and the graphs that `network` opens name theirs.
        """
        return (dtype,)

    def runtime_options(self, dtype: str) -> dict[str, str]:
        """Options by which others make the runtime compute in `dtype`, as it was measured."""
        del dtype
        return {}

    def copies(self, shape: LayerShape) -> int:
        """Instances of a layer that one call runs, with weights of their own."""
        if self.device == "cpu":
            return copy_count(shape)
        return rotation_count(shape, gpu_cache_bytes())

    @abstractmethod
    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """Prepare one layer, dense or factorized, to be run again and again."""

    @abstractmethod
    def network(
        self, artefact: Path, inputs: Path, *, threads: int, loader: NetworkLoader | None = None
    ) -> Runner:
        """Prepare a whole network, to be run on the inputs in a file."""

    def node_latencies(
        self, artefact: Path, inputs: Path, *, threads: int, again: Callable[[], bool]
    ) -> dict[str, float]:
        """Median seconds of every node of a running network, by name.

        The network is run as long as `again` says so. Backends with `profiles_nodes` have it.
        """
        raise NotImplementedError(f"backend {self.name} does not time the nodes of a network")


def copy_count(shape: LayerShape) -> int:
    """Copies that make one call long enough to time and weights change between them."""
    wanted = max(1, round(_TARGET_FLOPS / max(shape.flops, 1)))
    weight_bytes = shape.parameters * DTYPE_BYTES[shape.dtype]
    affordable = max(1, int(_MAX_COPY_BYTES / max(weight_bytes, 1)))
    return int(min(wanted, affordable, _MAX_COPIES))


def rotation_count(shape: LayerShape, cache_bytes: float) -> int:
    """Copies whose weights and activations push each other out of the cache.

    The next call then finds its weights in memory, as the layers of a network do; without this
    small layers look up to twice as fast at few tokens as they are.
    """
    values = shape.parameters + shape.tokens * (shape.in_features + shape.out_features)
    moved = values * DTYPE_BYTES[shape.dtype]
    return int(min(max(2, math.ceil(_ROTATION * cache_bytes / moved)), _MAX_ROTATION))


def typical_latencies(durations: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each node's durations, without the first one, which warms up."""
    return {name: statistics.median(values[1:] or values) for name, values in durations.items()}


def load_inputs(path: Path) -> dict[str, Any]:
    """The arrays of a safetensors file, by input name."""
    from safetensors.numpy import load_file

    return dict(load_file(path))


@functools.cache
def _fault(package: str) -> str | None:
    """Why an installed package cannot be imported, such as a library that is missing; else None."""
    try:
        import_module(package.removesuffix("-gpu"))
    except (ImportError, OSError) as error:
        return str(error)
    return None


@functools.cache
def _version(package: str) -> str | None:
    """Of what is installed; it stays as long as the process."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
