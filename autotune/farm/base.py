"""Where shards of measurements run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from autotune.core.errors import DeviceMissingError
from autotune.core.types import Fingerprint
from autotune.devices.specs import find_device
from autotune.profiler.measure.nodes import SiteProfile
from autotune.profiler.measure.tasks import Outcome, TimingTask


@dataclass(frozen=True, kw_only=True)
class FarmDevice:
    """A kind of device that an executor reaches: its name, what it calls itself, and how many."""

    name: str
    reported_name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Tasks for one kind of device, each timed by itself; the networks are files on this host."""

    device: str
    backend: str
    threads: int
    tasks: tuple[TimingTask, ...]


class Executor(ABC):
    """Runs shards in processes of their own. Use as a context manager.

    Contract:
    - A device belongs to one shard at a time.
    - `run` yields exactly one outcome for every task, in any order; `index` is the task's place in
      the shard. A process or a host that dies costs the task it was at, an outcome with the error;
      the others are run elsewhere, or again.
    - To close the iterator, or to leave the executor, ends what runs and frees the device.
    - A device that is not reached is refused at once: nothing waits for one to come.
    """

    @abstractmethod
    def devices(self) -> tuple[FarmDevice, ...]:
        """What is reached now."""

    @abstractmethod
    def fingerprint(self, device: str, backend: str, dtype: str, threads: int) -> Fingerprint:
        """Under which measurements of a shard are kept: that of the place where it runs."""

    @abstractmethod
    def run(self, shard: Shard) -> Iterator[Outcome]:
        """Outcomes as they come.

        Raises:
            DeviceMissingError: the device is not reached.
        """

    @abstractmethod
    def profile_sites(
        self, device: str, build: Path, inputs: Path, threads: int, sites: Sequence[str]
    ) -> SiteProfile:
        """Seconds of every site inside a running ONNX network on a device that is reached.

        Raises:
            DeviceMissingError: the device is not reached.
            MeasurementError: the network does not run there, or a site has no node of its own.
        """

    @abstractmethod
    def close(self) -> None:
        """End what runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require(self, name: str) -> FarmDevice:
        """The device of that name, if it is reached.

        Raises:
            UsageError: no such device is known.
            DeviceMissingError: it is not reached.
        """
        wanted = find_device(name).name
        found = self.devices()
        for device in found:
            if device.name == wanted:
                return device
        names = ", ".join(f"{device.name} ({device.reported_name})" for device in found)
        raise DeviceMissingError(
            f"no worker with a {wanted} has joined; reached are: {names or 'none'}. Run "
            "`autotune worker --join` where one is"
        )


@dataclass(frozen=True, kw_only=True)
class FarmRunner:
    """An executor as what measures on one kind of device: a `TaskRunner` that also profiles."""

    executor: Executor
    device: str
    backend: str
    threads: int

    def run(
        self, tasks: Sequence[TimingTask], progress: Callable[[float], None] = lambda fraction: None
    ) -> Iterator[Outcome]:
        """See `Executor.run`; workers do not report progress within a task."""
        del progress
        shard = Shard(
            device=self.device, backend=self.backend, threads=self.threads, tasks=tuple(tasks)
        )
        return self.executor.run(shard)

    def profile_sites(
        self, build: Path, inputs: Path, sites: Sequence[str], progress: Callable[[int, int], None]
    ) -> SiteProfile:
        """See `Executor.profile_sites`."""
        del progress
        return self.executor.profile_sites(self.device, build, inputs, self.threads, sites)
