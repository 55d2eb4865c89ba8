"""The functions that run on a farm's workers; arguments and results are JSON text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

from autotune.core.types import Fingerprint, from_mapping
from autotune.farm.base import Shard
from autotune.farm.local import LocalExecutor
from autotune.profiler.measure.tasks import Outcome, TimingTask


def devices_here() -> str:
    """The devices of the worker's host, as JSON text."""
    return json.dumps([dataclasses.asdict(device) for device in LocalExecutor().devices()])


def fingerprint_here(device: str, backend: str, dtype: str, threads: int) -> str:
    """The fingerprint of the worker's host, as JSON text."""
    return json.dumps(LocalExecutor().fingerprint(device, backend, dtype, threads).to_json())


def read_fingerprint(text: str) -> Fingerprint:
    """The fingerprint in a text from `fingerprint_here`."""
    return from_mapping(Fingerprint, json.loads(text))


def shard_text(shard: Shard) -> str:
    """A shard as JSON text, for `run_here`."""
    tasks = [task.to_json() for task in shard.tasks]
    return json.dumps({**vars(shard), "tasks": tasks})


def run_here(text: str) -> Iterator[str]:
    """Run a shard on the worker's host; yields one JSON text per outcome."""
    values = json.loads(text)
    tasks = tuple(TimingTask.from_json(task) for task in values.pop("tasks"))
    for outcome in LocalExecutor().run(Shard(tasks=tasks, **values)):
        yield json.dumps(outcome.to_json())


def read_outcome(text: str) -> Outcome:
    """The outcome in a text from `run_here`."""
    return Outcome.from_json(json.loads(text))
