"""Where is measured."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.core.types import Fingerprint
from autotune.devices.detect import PresentDevice
from autotune.devices.specs import find_device
from autotune.farm.base import Executor, ExecutorRunner
from autotune.profiler.measure.points import fingerprint_of
from autotune.profiler.measure.shard import ShardRunner
from autotune.profiler.measure.tasks import TaskRunner
from autotune.tune.target import Target, runs_on


@dataclass(frozen=True, kw_only=True)
class Place:
    """A target, what measures there, and under which fingerprint that is kept."""

    target: Target
    fingerprint: Fingerprint
    threads: int
    runner: TaskRunner


def place_here(target: Target, threads: int) -> Place:
    """A device of this machine."""
    return Place(
        target=target, threads=threads,
        fingerprint=fingerprint_of(target.device, target.backend, target.dtype, threads),
        runner=ShardRunner.on(target.device, target.backend, threads),
    )  # fmt: skip


def place_on(
    executor: Executor, device: str, backend: str | None, dtype: str | None, threads: int | None
) -> Place:
    """A device of an executor, as something to profile.

    Raises:
        UsageError, DeviceMissingError: as `Executor.require`; or backend and dtype do not go.
    """
    found = executor.require(device)
    spec = find_device(device)
    target = runs_on(PresentDevice(spec=spec, reported_name=found.reported_name), backend, dtype)
    fingerprint = executor.fingerprint(spec.name, target.backend.name, target.dtype, threads or 0)
    runner = ExecutorRunner(
        executor=executor, device=spec.name, backend=target.backend.name,
        threads=fingerprint.threads,
    )  # fmt: skip
    return Place(target=target, fingerprint=fingerprint, threads=fingerprint.threads, runner=runner)
