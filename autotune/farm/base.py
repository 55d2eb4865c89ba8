"""Where shards of measurements run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from autotune.core.errors import DeviceMissingError
from autotune.core.types import Fingerprint
from autotune.devices.specs import find_device
from autotune.profiler.measure.tasks import Outcome, TimingTask


@dataclass(frozen=True, kw_only=True)
class FarmDevice:
    """A kind of device that an executor reaches: its name, what it calls itself, and how many."""

    name: str
    reported_name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Tasks for one kind of device; each of them is timed by itself."""

    device: str
    backend: str
    threads: int
    tasks: tuple[TimingTask, ...]


class Executor(ABC):
    """Runs shards in processes of their own. Use as a context manager.

    Contract (`autotune.testing.suites.executor` checks it):
    - A device belongs to one shard at a time.
    - `run` yields exactly one outcome for every task, in any order; `index` is the task's place in
      the shard. A process or a host that dies costs the task it was at, an outcome with the error;
      the others are run elsewhere, or again. A task that fails is an outcome with the error.
    - To close the iterator, or to leave the executor, ends what runs and frees the device.
    - A device that is not reached is refused at once, by `run` itself and not with its first
      outcome: nothing waits for one to come.
    - `fingerprint` is the same for the same arguments as long as the device is reached.
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
class ExecutorRunner:
    """An executor as what measures tasks on one kind of device."""

    executor: Executor
    device: str
    backend: str
    threads: int

    def run(self, tasks: Sequence[TimingTask]) -> Iterator[Outcome]:
        """See `Executor.run`."""
        return self.executor.run(
            Shard(
                device=self.device, backend=self.backend, threads=self.threads, tasks=tuple(tasks)
            )
        )  # fmt: skip
