"""The texts that a worker sends while it runs a shard, each within a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from autotune.farm.base import Shard
from autotune.farm.errors import WorkerLostError
from autotune.farm.worker_calls import BEAT

_LOOK_S = 5.0
_TASK_S = 120.0
_PREPARE_S = {"cpu": 60.0, "cuda": 1800.0}  # of each subject: on a GPU, an engine may be built


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds that a coordinator waits for a worker.

    `start_s`: until a device is free and the shard has started on it. `silent_s`: for any further
    sign of life, of which a worker sends one every ten seconds. `whole_s`: for the whole shard.
    """

    start_s: float = 3600.0
    silent_s: float = 60.0
    whole_s: float = float("inf")

    @staticmethod
    def of(shard: Shard, kind: str) -> Limits:
        """As the tasks of the shard need it, and an hour for a device that is in use there."""
        prepare_s = _PREPARE_S[kind]
        whole_s = Limits.start_s + sum(
            _TASK_S + len(task.subjects) * (task.policy.max_seconds + prepare_s)
            for task in shard.tasks
        )
        return Limits(whole_s=whole_s)


def received(
    ray: Any, stream: Any, *, limits: Limits, is_offered: Callable[[], bool]
) -> Iterator[object]:
    """What the worker sends, without its signs of life; `is_offered`: some worker has the device.

    Raises:
        WorkerLostError: a limit has passed, or no worker has the device before the shard started.
        RayError: the worker died, or raised an error.
    """
    started, limit_s = False, limits.start_s
    begun = heard = time.monotonic()
    while True:
        ready, _ = ray.wait([stream], timeout=_LOOK_S, fetch_local=False)
        now = time.monotonic()
        if not ready:
            if not started and not is_offered():
                raise WorkerLostError("no worker with the device is left")
            if now - heard > limit_s:
                what = "sign of life" if started else "free device"
                raise WorkerLostError(f"no {what} within {limit_s:.0f} s")
            continue
        try:
            reference = next(stream)
        except StopIteration:
            return
        text = ray.get(reference, timeout=limits.silent_s)
        if not started:
            started, limit_s, begun = True, limits.silent_s, now
        heard = now
        if now - begun > limits.whole_s:
            raise WorkerLostError(f"the shard did not end within {limits.whole_s:.0f} s")
        if text != BEAT:
            yield text
