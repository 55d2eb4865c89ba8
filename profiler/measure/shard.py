"""Run measurements in fresh processes with a time limit, and lose nothing when one dies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.childprocess import ChildDiedError, ChildProcess, ChildTimeoutError
from autotune.devices.detect import PresentDevice
from autotune.devices.lock import device_lock
from autotune.profiler.backends.base import Backend
from autotune.profiler.measure.tasks import Outcome, TimingTask

_START_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ShardRunner:
    """How shards are run: backend, threads, tasks per process, and the time limits of one task.

    `task_limit_s` is what a task may take beyond its measurements, `prepare_limit_s` what each of
    its subjects may beside that.
    """

    backend: str
    threads: int
    device: str = "cpu"
    tasks_per_shard: int = 8
    task_limit_s: float = 60.0
    prepare_limit_s: float = 0.0
    command: tuple[str, ...] = (sys.executable, "-m", "autotune.profiler.measure.worker")

    @staticmethod
    def on(device: PresentDevice, backend: Backend, threads: int) -> ShardRunner:
        """As `device` and `backend` need it: a process with a GPU takes long to start."""
        tasks = 8 if device.spec.kind == "cpu" else 64
        return ShardRunner(
            backend=backend.name, threads=threads, device=device.spec.kind, tasks_per_shard=tasks,
            prepare_limit_s=backend.prepare_limit_s,
        )  # fmt: skip

    def run(
        self,
        tasks: Sequence[TimingTask],
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> Iterator[Outcome]:
        """One outcome per task, in order, each as soon as it is known.

        The device is locked while a process measures on it (devices/lock.py).

        `progress` hears how much of the present task's time cap is used.

        A process that dies or hangs costs the task it was at (an outcome with the error); the
        rest of its shard goes on in a new process.
        """
        done = 0
        while done < len(tasks):
            shard = tasks[done : done + self.tasks_per_shard]
            for outcome in self._run_shard(shard, progress):
                yield replace(outcome, index=done + outcome.index)
                last = outcome.index
            done += last + 1

    def _run_shard(
        self, shard: Sequence[TimingTask], progress: Callable[[float], None]
    ) -> Iterator[Outcome]:
        with device_lock(self.device), ChildProcess(self.command, threads=self.threads) as child:
            for index, task in enumerate(shard):
                limit_s = self._limit_s(task) + (_START_S if index == 0 else 0.0)
                try:
                    if index == 0:
                        child.send(self._request(shard), limit_s=limit_s, last=True)
                    message = _result(child, limit_s, progress)
                except ChildTimeoutError:
                    error = f"TimeoutError: no result within {limit_s:.0f} s"
                    yield Outcome(index=index, error=error)
                    return
                except ChildDiedError as died:
                    error = f"ProcessError: the measuring process {died.death}"
                    yield Outcome(index=index, error=error, died=True)
                    return
                yield Outcome.from_json({**message, "index": index, "died": False})

    def _request(self, shard: Sequence[TimingTask]) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "device": self.device,
            "threads": self.threads,
            "tasks": [task.to_json() for task in shard],
        }

    def _limit_s(self, task: TimingTask) -> float:
        """Seconds that one task may take after the process has started."""
        per_subject_s = task.policy.max_seconds + self.prepare_limit_s
        return self.task_limit_s + len(task.subjects) * per_subject_s


def _result(
    child: ChildProcess, limit_s: float, progress: Callable[[float], None]
) -> dict[str, Any]:
    """The next result; messages about the progress until then are passed on."""
    deadline = time.monotonic() + limit_s
    while "progress" in (message := child.receive(max(0.0, deadline - time.monotonic()))):
        progress(message["progress"])
    return message
