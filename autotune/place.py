"""Where is measured."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.profiler.profile import fingerprint_of
from autotune.profiler.shard import ShardRunner
from autotune.profiler.tasks import TaskRunner
from autotune.target import Target
from autotune.types import Fingerprint


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
