"""Executors: where shards of measurements run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from autotune.core.errors import DeviceMissingError
from autotune.core.forms import NATIVE, parse_form
from autotune.core.progress import Advance
from autotune.core.types import Fingerprint
from autotune.devices.specs import find_device
from autotune.profiler.measure.nodes import SiteProfile
from autotune.profiler.measure.tasks import Outcome, TimingTask
from autotune.search.evaluator import EvaluatorSetup
from autotune.search.judges import JudgePool


@dataclass(frozen=True, kw_only=True)
class FarmDevice:
    """A kind of device available to an executor: name, name reported by the driver, and count."""

    name: str
    reported_name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What networks on a device can be, as the host that has it reports.

    `forms` of layers as plans spell them, each standing for all of its ranks; `dtypes` that
    networks of one dtype can be run in, that one first; `cpu_features` of its processor.
    """

    forms: tuple[str, ...]
    dtypes: tuple[str, ...]
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Tasks for one kind of device, each timed separately; their networks are local files."""

    device: str
    backend: str
    threads: int
    tasks: tuple[TimingTask, ...]


class Executor(ABC):
    """Runs shards in separate processes. Use as a context manager.

    Contract (`autotune.testing.suites.executor` checks it):
    - A device runs one shard at a time.
    - `run` yields exactly one outcome for every task, in any order; `index` is the task's position
      in the shard. A task that fails is an outcome with the error. If a process or a host dies, the
      task it was running fails with an error in its outcome; the remaining tasks run on another
      device, or again on the same one.
    - Closing the iterator or leaving the executor ends the running tasks and frees the device.
    - A device that is not available is an error of `run` itself, not of its first outcome; nothing
      waits for one to join.
    - `fingerprint` is the same for the same arguments as long as the device is available.
    """

    @abstractmethod
    def devices(self) -> tuple[FarmDevice, ...]:
        """The devices that are available now."""

    @abstractmethod
    def fingerprint(self, device: str, backend: str, *, dtype: str, threads: int) -> Fingerprint:
        """The fingerprint of the host that runs a shard; its measurements are stored under it."""

    def abilities(
        self, device: str, backend: str, *, dtype: str, forms: Sequence[str]
    ) -> Abilities:
        """Which of `forms` and which dtypes the host that runs a shard runs well.

        An executor that cannot ask it answers with those in the model's own dtype.
        """
        del device, backend
        native = (form for form in forms if parse_form(form).precision == NATIVE)
        return Abilities(forms=tuple(native), dtypes=(dtype,))

    @abstractmethod
    def run(self, shard: Shard) -> Iterator[Outcome]:
        """Run a shard and yield its outcomes as they arrive.

        Raises:
            DeviceMissingError: the device is not available.
        """

    @abstractmethod
    def profile_sites(
        self,
        device: str,
        build: Path,
        *,
        inputs: Path,
        backend: str,
        threads: int,
        sites: Sequence[str],
    ) -> SiteProfile | None:
        """The latency of every site inside a running ONNX network, on a device of the executor.

        None where a site has no separate node.

        Raises:
            DeviceMissingError: the device is not available.
            MeasurementError: the network does not run there.
        """

    def judges(self, setup: EvaluatorSetup) -> JudgePool | None:
        """Judges of plans on the hosts that are reached; None where there are none."""
        del setup
        return None

    @abstractmethod
    def close(self) -> None:
        """End all running tasks and release the executor's resources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require(self, name: str) -> FarmDevice:
        """The device of that name, if it is available.

        Raises:
            UsageError: the name is not that of a known device.
            DeviceMissingError: the device is not available.
        """
        wanted = find_device(name).name
        found = self.devices()
        for device in found:
            if device.name == wanted:
                return device
        names = ", ".join(f"{device.name} ({device.reported_name})" for device in found)
        raise DeviceMissingError(
            f"no worker with a {wanted} has joined; available: {names or 'none'}. Run "
            f"`autotune worker --join` on a host that has a {wanted}"
        )


@dataclass(frozen=True, kw_only=True)
class FarmRunner:
    """Adapts an executor to a `TaskRunner` for one kind of device that also profiles sites."""

    executor: Executor
    device: str
    backend: str
    threads: int

    def run(
        self, tasks: Sequence[TimingTask], progress: Callable[[float], None] = lambda fraction: None
    ) -> Iterator[Outcome]:
        """Run the tasks as one shard; workers do not report progress within a task."""
        del progress
        shard = Shard(
            device=self.device, backend=self.backend, threads=self.threads, tasks=tuple(tasks)
        )
        return self.executor.run(shard)

    def profile_sites(
        self, build: Path, inputs: Path, *, sites: Sequence[str], advance: Advance
    ) -> SiteProfile | None:
        """Profile the sites of a network; see `Executor.profile_sites`."""
        del advance
        return self.executor.profile_sites(
            self.device,
            build,
            inputs=inputs,
            backend=self.backend,
            threads=self.threads,
            sites=sites,
        )
