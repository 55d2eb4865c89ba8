"""A backend that executes nothing: calls advance a simulated clock by what the hardware takes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.core.forms import Form
from autotune.core.layers import LayerShape, chosen_sites
from autotune.devices.health import Watch
from autotune.profiler.backends.base import (
    Backend,
    NetworkLoader,
    TimedLayer,
    copy_count,
    rotation_count,
)
from autotune.profiler.measure.timing import Runner
from autotune.testing.disturbance import CALM, Disturbance, Fault, FaultKind, Noise
from autotune.testing.hardware import Hardware
from autotune.testing.network_file import SimulatedNetwork


class SimulatedFaultError(Exception):
    """A fault of the measuring process that a disturbance asked for."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class SimulatedClock:
    """Seconds since the machine was switched on; only work makes them pass."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The seconds now, as `time.perf_counter` gives them."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Move the clock on by some seconds."""
        self.now_s += seconds


class Timeline:
    """One simulated machine over time: its clock, and what disturbs the work on it."""

    def __init__(
        self, hardware: Hardware, disturbance: Disturbance = CALM, *, seed: int = 0
    ) -> None:
        self.clock = SimulatedClock()
        self.task = -1
        self._disturbance = disturbance
        self._noise = disturbance.noise or Noise(sigma=hardware.settings.noise)
        self._random = random.Random(f"timeline:{seed}")
        self._pending: list[tuple[float, Fault]] = []

    def begin_task(self, longest_s: float) -> None:
        """Count a task; random faults hit within its first `longest_s` seconds, or at its end."""
        self.task += 1
        now_s, asked = self.clock.now_s, self._disturbance
        faults = [*asked.faults]
        chance, after_s = self._random.random(), self._random.random() * longest_s
        if chance < asked.death_probability:
            faults.append(Fault(kind="death", task=self.task, after_s=after_s))
        elif chance < asked.death_probability + asked.hang_probability:
            faults.append(Fault(kind="hang", task=self.task, after_s=after_s))
        moments = [(fault.moment_s(self.task, now_s), fault) for fault in faults]
        self._pending = [entry for entry in moments if entry[0] < math.inf]

    def end_task(self) -> None:
        """The task was timed.

        Raises:
            SimulatedFaultError: a fault of this task did not come before.
        """
        self._fail_if(lambda moment_s, fault: fault.task is not None)

    def work(self, seconds: float, *, products: int) -> None:
        """Let one call of so many matrix products pass that takes `seconds` on a calm machine.

        Raises:
            SimulatedFaultError: the process dies, hangs or fails in it.
        """
        clock = self.clock
        factor = self._noise.draw(self._random)
        took_s = self._disturbance.seconds(
            seconds,
            now_s=clock.now_s,
            task=self.task,
            products=products,
            random_source=self._random,
        )
        clock.advance(took_s * factor)
        if self._pending:
            self._fail_if(lambda moment_s, fault: moment_s <= clock.now_s)

    def _fail_if(self, due: Callable[[float, Fault], bool]) -> None:
        for moment_s, fault in sorted(self._pending, key=lambda entry: entry[0]):
            if due(moment_s, fault):
                self._pending = []
                raise SimulatedFaultError(fault.kind, fault.message)

    def slowed(self) -> str | None:
        """What the device's own sensors report."""
        return self._disturbance.reason(self.clock.now_s, self.task)

    @contextmanager
    def watch(self, kind: str) -> Iterator[Watch]:
        """The simulated device, looked at while it is measured."""
        del kind
        yield _SimulatedWatch(self)


class _SimulatedWatch(Watch):
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def slowed(self) -> str | None:
        return self._timeline.slowed()


class SimulatedBackend(Backend):
    """Layers and networks on simulated hardware; networks are files of `SimulatedNetwork`."""

    name = "simulated"
    packages = ()
    dtypes = ("fp32", "fp16", "bf16")
    device_kinds = ("cpu", "cuda")

    def __init__(self, hardware: Hardware, timeline: Timeline | None = None) -> None:
        super().__init__(hardware.settings.kind)
        self.hardware = hardware
        self.timeline = timeline or Timeline(hardware)

    def missing(self) -> str | None:
        """Always None: a simulation needs no other package."""
        return None

    def settings(self) -> dict[str, str]:
        """Which hardware it is: the latencies of two never mix."""
        return {"hardware": self.hardware.identity}

    def implements(self, form: Form) -> bool:
        """Plain pairs in the model's own dtype: the hardware knows no other."""
        return not form.suffix

    def copies(self, shape: LayerShape) -> int:
        """As on real devices, with the cache of the simulated one."""
        if self.device == "cpu":
            return copy_count(shape)
        return rotation_count(shape, self.hardware.settings.cache_bytes)

    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """A call that takes as long as the hardware says."""
        del threads
        copies = self.copies(shape)
        seconds = copies * self.hardware.layer_latency_s(shape)
        return TimedLayer(
            run=self._call(seconds, products=copies * _products(shape)), copies=copies
        )

    def network(
        self, artefact: Path, inputs: Path, *, threads: int, loader: NetworkLoader | None = None
    ) -> Runner:
        """A pass through the network that the file describes.

        Raises:
            ModelError: the file is no simulated network.
        """
        del inputs, threads, loader
        found = SimulatedNetwork.read(artefact)
        seconds = self.hardware.network_latency_s(
            found.sites, found.plan, phase=found.phase, dtype=found.dtype
        )
        covered = chosen_sites(found.sites, found.plan)
        shapes = [site.shape(form, found.dtype) for site, form in covered]
        return self._call(seconds, products=sum(map(_products, shapes)))

    def _call(self, seconds: float, *, products: int) -> Runner:
        def run() -> None:
            self.timeline.work(seconds, products=products)

        return run


def _products(shape: LayerShape) -> int:
    """Matrix products of a layer, or of several that share their input."""
    return max(len(shape.parts), 1) + (not shape.form.is_dense)
