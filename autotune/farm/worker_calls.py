"""What a farm's workers are asked: plain functions of JSON text, so that only text travels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

from autotune.core.types import Fingerprint, from_mapping
from autotune.farm.base import Shard
from autotune.farm.local import LocalExecutor
from autotune.profiler.measure.tasks import Outcome, TimingTask


def devices_here() -> str:
    """The worker's devices."""
    return json.dumps([dataclasses.asdict(device) for device in LocalExecutor().devices()])


def fingerprint_here(device: str, backend: str, dtype: str, threads: int) -> str:
    """That of the worker's machine."""
    return json.dumps(LocalExecutor().fingerprint(device, backend, dtype, threads).to_json())


def read_fingerprint(text: str) -> Fingerprint:
    """From `fingerprint_here`."""
    return from_mapping(Fingerprint, json.loads(text))


def shard_text(shard: Shard) -> str:
    """A shard that travels."""
    tasks = [task.to_json() for task in shard.tasks]
    return json.dumps({**vars(shard), "tasks": tasks})


def run_here(text: str) -> Iterator[str]:
    """Run a shard on the worker; one text an outcome."""
    values = json.loads(text)
    tasks = tuple(TimingTask.from_json(task) for task in values.pop("tasks"))
    for outcome in LocalExecutor().run(Shard(tasks=tasks, **values)):
        yield json.dumps(outcome.to_json())


def read_outcome(text: str) -> Outcome:
    """From `run_here`."""
    return Outcome.from_json(json.loads(text))
