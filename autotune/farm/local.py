"""The executor that runs shards on this machine, each in a fresh process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from autotune.core.forms import parse_form
from autotune.core.types import Fingerprint
from autotune.devices.detect import (
    PresentDevice,
    check_threads,
    cpu_features,
    present_devices,
    require_device,
)
from autotune.farm.base import Abilities, Executor, FarmDevice, Shard
from autotune.farm.measuring_process import COMMAND
from autotune.profiler.backends import Backend, make_backend, require_backend
from autotune.profiler.measure.nodes import SiteProfile, profile_sites
from autotune.profiler.measure.points import fingerprint_of
from autotune.profiler.measure.shard import ShardRunner
from autotune.profiler.measure.tasks import Outcome


def runner_here(device: PresentDevice, backend: Backend, *, threads: int) -> ShardRunner:
    """What times layers and whole networks on a device of this machine, in fresh processes."""
    return replace(ShardRunner.on(device, backend, threads=threads), command=COMMAND)


class LocalExecutor(Executor):
    """Runs shards on this machine; a device is locked while a process measures on it."""

    def devices(self) -> tuple[FarmDevice, ...]:
        """The devices detected on this machine."""
        found = present_devices()
        counts = {each.spec.name: 0 for each in found}
        for each in found:
            counts[each.spec.name] += 1
        names = {each.spec.name: each.reported_name for each in found}
        return tuple(
            FarmDevice(name=name, reported_name=names[name], count=count)
            for name, count in counts.items()
        )

    def fingerprint(self, device: str, backend: str, *, dtype: str, threads: int) -> Fingerprint:
        """The fingerprint of this machine; `threads` of 0 means all cores."""
        present = require_device(device)
        runs = require_backend(backend, present.spec.kind)
        return fingerprint_of(present, runs, dtype=dtype, threads=check_threads(threads or None))

    def abilities(
        self, device: str, backend: str, *, dtype: str, forms: Sequence[str]
    ) -> Abilities:
        """Those of the backend on this machine."""
        kind = require_device(device).spec.kind
        runs = require_backend(backend, kind)
        return Abilities(
            forms=tuple(form for form in forms if runs.implements(parse_form(form))),
            dtypes=runs.inference_dtypes(dtype),
            cpu_features=cpu_features() if kind == "cpu" else (),
        )

    def run(self, shard: Shard) -> Iterator[Outcome]:
        """Run a shard, in processes of a few tasks each; see profiler/measure/shard.py."""
        self.require(shard.device)
        present = require_device(shard.device)
        backend = make_backend(shard.backend, present.spec.kind)
        runner = runner_here(present, backend, threads=shard.threads)
        return _closing(runner.run(shard.tasks))

    def profile_sites(
        self,
        device: str,
        build: Path,
        *,
        inputs: Path,
        backend: str,
        threads: int,
        sites: Sequence[str],
    ) -> SiteProfile | None:
        """In a fresh process on this machine."""
        self.require(device)
        return profile_sites(build, inputs, backend=backend, threads=threads, sites=sites)

    def close(self) -> None:
        """Do nothing: the executor holds no resources."""


def _closing(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    with closing(outcomes):  # type: ignore[type-var]
        yield from outcomes
