"""Run measurements in fresh processes with a time limit, and lose nothing when one dies."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

from autotune.devices.detect import PresentDevice
from autotune.devices.lock import device_lock
from autotune.profiler.backends.base import Backend
from autotune.profiler.measure.tasks import DIED, Outcome, TimingTask

_START_S = 60.0
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


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
        with device_lock(self.device), tempfile.TemporaryFile("w+") as log:
            process = self._start(shard, log)
            try:
                yield from self._collect(process, shard, log, progress)
            finally:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()

    def _start(self, shard: Sequence[TimingTask], log: IO[str]) -> subprocess.Popen[bytes]:
        environment = dict(os.environ) | {name: str(self.threads) for name in _THREAD_VARIABLES}
        process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=environment,
        )  # fmt: skip
        request = {
            "backend": self.backend,
            "device": self.device,
            "threads": self.threads,
            "tasks": [task.to_json() for task in shard],
        }
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; the missing output says so
        return process

    def _collect(
        self, process: subprocess.Popen[bytes], shard: Sequence[TimingTask], log: IO[str],
        progress: Callable[[float], None],
    ) -> Iterator[Outcome]:  # fmt: skip
        assert process.stdout is not None
        lines = _Lines(process.stdout)
        for index, task in enumerate(shard):
            cap = len(task.subjects) * task.policy.max_seconds
            cap += len(task.subjects) * self.prepare_limit_s
            limit = self.task_limit_s + cap + (_START_S if index == 0 else 0.0)
            deadline = time.monotonic() + limit
            while (line := lines.next(deadline)) and b'"progress"' in line:
                progress(json.loads(line)["progress"])
            if line is None:
                yield Outcome(index=index, error=f"TimeoutError: no result within {limit:.0f} s")
                return
            if not line:
                yield Outcome(index=index, error=self._death(process, log))
                return
            yield Outcome.from_json({**json.loads(line), "index": index})

    @staticmethod
    def _death(process: subprocess.Popen[bytes], log: IO[str]) -> str:
        code = process.wait()
        log.seek(0)
        said = log.read().strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{DIED}: the measuring process ended with {how}" + (
            f": {said[-1][:500]}" if said else ""
        )


class _Lines:
    """Lines of a pipe with a deadline: None is a timeout, empty is the end."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)

    def next(self, deadline: float) -> bytes | None:
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                return None
            chunk = os.read(self._pipe.fileno(), 65536)
            if not chunk:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
