"""The functions that run on a farm's workers; arguments and results are JSON text and files."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.farm import parcels
from autotune.farm.base import Shard
from autotune.farm.local import LocalExecutor
from autotune.profiler.measure.nodes import profile_sites
from autotune.profiler.measure.tasks import TimingTask

BEAT = "beat"
BEAT_S = 10.0
Fetch = Callable[[Any], Mapping[str, bytes]]


def fingerprint_here(device: str, backend: str, *, dtype: str, threads: int) -> str:
    """The fingerprint of the worker's host, as JSON text."""
    return json.dumps(
        LocalExecutor().fingerprint(device, backend, dtype=dtype, threads=threads).to_json()
    )


def abilities_here(device: str, backend: str, *, dtype: str, forms: Sequence[str]) -> str:
    """What networks on the worker's device can be, as JSON text."""
    found = LocalExecutor().abilities(device, backend, dtype=dtype, forms=forms)
    return json.dumps(vars(found))


def shard_text(shard: Shard) -> str:
    """A shard as JSON text, for `run_here`."""
    tasks = [task.to_json() for task in shard.tasks]
    return json.dumps({**vars(shard), "tasks": tasks})


def run_here(text: str, sent: Mapping[str, tuple[str, Any]], *, fetch: Fetch) -> Iterator[str]:
    """Run a shard on the worker's host; yields one JSON text per outcome, in order.

    `sent` maps a path on the sending host to the sha256 of its parcel and a reference to the
    contents, which `fetch` resolves if this worker does not have them. As soon as the files are
    here, and whenever nothing has come for `BEAT_S` seconds, it yields `BEAT`.
    """
    values = json.loads(text)
    tasks = tuple(TimingTask.from_json(task) for task in values.pop("tasks"))
    tasks = parcels.moved(tasks, _places(sent, fetch))
    outcomes = LocalExecutor().run(Shard(tasks=tasks, **values))
    yield from with_beats(json.dumps(outcome.to_json()) for outcome in outcomes)


def with_beats(texts: Iterable[str], every_s: float = BEAT_S) -> Iterator[str]:
    """`BEAT`, then the texts, with `BEAT` between them whenever `every_s` passed without one."""
    found: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for text in texts:
                found.put(text)
            found.put(None)
        except BaseException as error:  # re-raised where the texts are read
            found.put(error)

    threading.Thread(target=work, daemon=True).start()
    yield BEAT
    while True:
        try:
            each = found.get(timeout=every_s)
        except queue.Empty:
            yield BEAT
            continue
        if each is None:
            return
        if isinstance(each, BaseException):
            raise each
        yield each


def profile_here(text: str, sent: Mapping[str, tuple[str, Any]], *, fetch: Fetch) -> str:
    """Profile the sites of a network on the worker's host; `text` is from `profile_text`."""
    values, places = json.loads(text), _places(sent, fetch)
    build, inputs = Path(places[values["build"]]), Path(places[values["inputs"]])
    profile = profile_sites(
        build,
        inputs,
        backend=values["backend"],
        threads=values["threads"],
        sites=values["sites"],
    )
    return json.dumps(profile and vars(profile))


def profile_text(
    build: Path, inputs: Path, *, backend: str, threads: int, sites: Sequence[str]
) -> str:
    """The arguments of `profile_here`, as JSON text."""
    return json.dumps(
        {
            "build": str(build),
            "inputs": str(inputs),
            "backend": backend,
            "threads": threads,
            "sites": list(sites),
        }
    )


def _places(sent: Mapping[str, tuple[str, Any]], fetch: Fetch) -> dict[str, str]:
    """Where the coordinator's paths lie on this worker, after fetching what is missing."""
    for sha256, reference in sent.values():
        if not parcels.is_here(sha256):
            parcels.unpack(sha256, fetch(reference))
    return {
        path: str(parcels.path_here(sha256, Path(path).name)) for path, (sha256, _) in sent.items()
    }
