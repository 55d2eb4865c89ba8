"""Run measurements in fresh processes with a time limit, and lose nothing when one dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.child_errors import ChildDiedError, ChildTimeoutError
from autotune.core.childprocess import ChildProcess
from autotune.devices.detect import PresentDevice, device_identity
from autotune.devices.lock import device_lock
from autotune.devices.visible import ORDER, VISIBLE, Gpu, visible_gpus
from autotune.profiler.backends.base import Backend
from autotune.profiler.measure.tasks import Outcome, TimingTask

_START_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ShardRunner:
    """How shards are run: backend, threads, tasks per process, and the time limits of one task.

    `device` is "cpu" or "cuda"; `gpu` the one to measure on, by default the first that is visible.
    `task_limit_s` is what a task may take beyond its measurements, `prepare_limit_s` what each of
    its subjects may beside that.
    """

    backend: str
    threads: int
    device: str = "cpu"
    gpu: Gpu | None = None
    tasks_per_shard: int = 8
    task_limit_s: float = 60.0
    prepare_limit_s: float = 0.0
    command: tuple[str, ...] = (sys.executable, "-m", "autotune.profiler.measure.worker")

    @staticmethod
    def on(device: PresentDevice, backend: Backend, *, threads: int) -> ShardRunner:
        """As `device` and `backend` need it: a process with a GPU takes long to start."""
        return ShardRunner(
            backend=backend.name,
            threads=threads,
            device=device.spec.kind,
            gpu=device.gpu,
            tasks_per_shard=8 if device.spec.kind == "cpu" else 64,
            prepare_limit_s=backend.prepare_limit_s,
        )

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
        with (
            device_lock(device_identity(self.device, self.gpu)),
            ChildProcess(
                self.command, threads=self.threads, environment=self._environment
            ) as child,
        ):
            for index, task in enumerate(shard):
                limit_s = self._limit_s(task) + (_START_S if index == 0 else 0.0)
                try:
                    if index == 0:
                        child.send(self._request(shard), limit_s=limit_s, last=True)
                    message = _result(child, limit_s, progress=progress)
                except ChildTimeoutError:
                    error = f"TimeoutError: no result within {limit_s:.0f} s"
                    yield Outcome(index=index, error=error)
                    return
                except ChildDiedError as died:
                    error = f"ProcessError: the measuring process {died.death}"
                    yield Outcome(index=index, error=error, died=True)
                    return
                yield Outcome.from_json({**message, "index": index, "died": False})

    @property
    def _environment(self) -> dict[str, str]:
        """What makes the GPU that is measured the process's device 0."""
        if self.device != "cuda":
            return {}
        order = {name: value for name, value in ORDER.items() if name not in os.environ}
        # One that is alone is shown already, perhaps as an instance of it that is not named.
        alone = self.gpu is None or len(visible_gpus()) < 2
        return order if alone or self.gpu is None else {**order, VISIBLE: self.gpu.selector}

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
    child: ChildProcess, limit_s: float, *, progress: Callable[[float], None]
) -> dict[str, Any]:
    """The next result; messages about the progress until then are passed on."""
    deadline = time.monotonic() + limit_s
    while "progress" in (message := child.receive(max(0.0, deadline - time.monotonic()))):
        progress(message["progress"])
    return message
