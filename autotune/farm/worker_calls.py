"""The functions that run on a farm's workers; arguments and results are JSON text and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.core.types import Fingerprint, from_mapping
from autotune.farm import parcels
from autotune.farm.base import Shard
from autotune.farm.local import LocalExecutor
from autotune.profiler.measure.nodes import SiteProfile, profile_sites
from autotune.profiler.measure.tasks import Outcome, TimingTask

Fetch = Callable[[Any], Mapping[str, bytes]]


def fingerprint_here(device: str, backend: str, *, dtype: str, threads: int) -> str:
    """The fingerprint of the worker's host, as JSON text."""
    return json.dumps(
        LocalExecutor().fingerprint(device, backend, dtype=dtype, threads=threads).to_json()
    )


def read_fingerprint(text: str) -> Fingerprint:
    """The fingerprint in a text from `fingerprint_here`."""
    return from_mapping(Fingerprint, json.loads(text))


def shard_text(shard: Shard) -> str:
    """A shard as JSON text, for `run_here`."""
    tasks = [task.to_json() for task in shard.tasks]
    return json.dumps({**vars(shard), "tasks": tasks})


def run_here(text: str, sent: Mapping[str, tuple[str, Any]], *, fetch: Fetch) -> Iterator[str]:
    """Run a shard on the worker's host; yields one JSON text per outcome.

    `sent` maps a path on the sending host to the sha256 of its parcel and a reference to the
    contents, which `fetch` resolves if this worker does not have them.
    """
    values = json.loads(text)
    tasks = tuple(TimingTask.from_json(task) for task in values.pop("tasks"))
    tasks = parcels.moved(tasks, _places(sent, fetch))
    for outcome in LocalExecutor().run(Shard(tasks=tasks, **values)):
        yield json.dumps(outcome.to_json())


def profile_here(text: str, sent: Mapping[str, tuple[str, Any]], *, fetch: Fetch) -> str:
    """Profile the sites of a network on the worker's host; `text` is from `profile_text`."""
    values, places = json.loads(text), _places(sent, fetch)
    build, inputs = Path(places[values["build"]]), Path(places[values["inputs"]])
    profile = profile_sites(build, inputs, threads=values["threads"], sites=values["sites"])
    return json.dumps(vars(profile))


def profile_text(build: Path, inputs: Path, *, threads: int, sites: Sequence[str]) -> str:
    """The arguments of `profile_here`, as JSON text."""
    return json.dumps(
        {"build": str(build), "inputs": str(inputs), "threads": threads, "sites": list(sites)}
    )


def read_profile(text: str) -> SiteProfile:
    """The profile in a text from `profile_here`."""
    return from_mapping(SiteProfile, json.loads(text))


def _places(sent: Mapping[str, tuple[str, Any]], fetch: Fetch) -> dict[str, str]:
    """Where the coordinator's paths lie on this worker, after fetching what is missing."""
    for sha256, reference in sent.values():
        if not parcels.is_here(sha256):
            parcels.unpack(sha256, fetch(reference))
    return {
        path: str(parcels.path_here(sha256, Path(path).name)) for path, (sha256, _) in sent.items()
    }


def read_outcome(text: str) -> Outcome:
    """The outcome in a text from `run_here`."""
    return Outcome.from_json(json.loads(text))
