"""The measuring process: reads tasks as JSON from stdin, writes one JSON line per outcome.

Run as `python -m autotune.profiler.measure.worker` it times layers, and networks that the backend
opens itself. A program that can open others passes its loader to `serve`. The process imports no
more than the backend needs, and ends with the shard, so that every shard starts with fresh
allocators, thread pools and contexts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

from autotune.core.childprocess import end_with_parent
from autotune.devices.health import ClockReading, Watch, watch
from autotune.profiler.backends import Backend, make_backend
from autotune.profiler.backends.base import NetworkLoader
from autotune.profiler.measure.energy import energy_of
from autotune.profiler.measure.streams import at_the_same_time
from autotune.profiler.measure.tasks import Subject, TimingTask
from autotune.profiler.measure.timing import PairedTiming, Runner, TimingPolicy, time_interleaved

_PROGRESS_EVERY_S = 0.5


def prepare(
    backend: Backend,
    subject: Subject,
    *,
    threads: int,
    loader: NetworkLoader | None = None,
    processors: Sequence[int] = (),
) -> tuple[Runner, int]:
    """A callable for the subject, and how many layers or networks one call of it runs.

    `loader` opens networks for the backends that cannot do it themselves, `processors` are those
    that streams may use.

    Raises:
        ValueError: the backend has no implementation of the layer's form, or the subject is neither
            a layer nor a network with inputs.
    """
    if subject.layer is not None:
        # Timed as what it is not, a layer would stay in the database under a false name.
        if not backend.implements(subject.layer.form):
            raise ValueError(f"{backend.name} has no implementation of {subject.layer.form}")
        timed = backend.layer(subject.layer, threads)
        return timed.run, timed.copies
    if subject.network is None or subject.inputs is None:
        raise ValueError("a subject is a layer, or a network with inputs")
    networks = [
        backend.network(
            Path(subject.network),
            Path(subject.inputs),
            threads=max(1, threads // subject.streams),
            loader=loader,
        )
        for _ in range(subject.streams)
    ]
    if subject.streams == 1:
        return networks[0], 1
    return at_the_same_time(networks, processors), subject.streams


def run_task(
    backend: Backend,
    task: TimingTask,
    *,
    threads: int,
    progress: Callable[[float], None] = lambda fraction: None,
    loader: NetworkLoader | None = None,
    processors: Sequence[int] = (),
    clock: Callable[[], float] = time.perf_counter,
    watching: Callable[[str], AbstractContextManager[Watch]] = watch,
) -> tuple[PairedTiming, tuple[ClockReading, ...]]:
    """Time one task, latencies and ratios per layer; and the device's clocks around it.

    A simulated machine has a `clock` of its own, and gives its device's state by `watching`.
    """
    prepared = [
        prepare(backend, subject, threads=threads, loader=loader, processors=processors)
        for subject in task.subjects
    ]
    with watching(backend.device) as device:
        before = device.read("before")
        timing = time_interleaved(
            [runner for runner, _ in prepared],
            task.policy,
            clock=clock,
            progress=progress,
            slowed=device.slowed,
            waited_s=device.waited_s,
        )
        clocks = (*before, *device.read("after"))
        if task.policy.energy_seconds:
            timing = _with_energy(timing, prepared, policy=task.policy, device=device)
    copies = [count for _, count in prepared]
    scale = [copies[0] / count for count in copies]
    per_layer = dataclasses.replace(
        timing,
        latencies_s=tuple(t / c for t, c in zip(timing.latencies_s, copies, strict=True)),
        quantiles_s=_divided(timing.quantiles_s, copies),
        samples_s=_divided(timing.samples_s, copies),
        ratios=tuple(r * s for r, s in zip(timing.ratios, scale, strict=True)),
        ratio_lows=tuple(r * s for r, s in zip(timing.ratio_lows, scale, strict=True)),
        ratio_highs=tuple(r * s for r, s in zip(timing.ratio_highs, scale, strict=True)),
    )
    return per_layer, clocks


def _with_energy(
    timing: PairedTiming,
    prepared: Sequence[tuple[Runner, int]],
    *,
    policy: TimingPolicy,
    device: Watch,
) -> PairedTiming:
    """The timing with what each layer or network takes of energy, where the device counts it."""
    found = [
        energy_of(runner, seconds=policy.energy_seconds, counted_j=device.energy_j)
        for runner, _ in prepared
    ]
    if not any(found):
        return timing
    return dataclasses.replace(
        timing,
        energies_j=tuple(
            None if one is None else one.energy_j / count
            for one, (_, count) in zip(found, prepared, strict=True)
        ),
        powers_w=tuple(None if one is None else one.power_w for one in found),
    )


def _divided(
    columns: Sequence[Sequence[float]], copies: Sequence[int]
) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(t / c for t in column) for column, c in zip(columns, copies, strict=True))


def raise_priority() -> None:
    """Take priority over other work, where the system allows it (root, CAP_SYS_NICE).

    A neighbour that keeps one core busy slows a product on two threads by half or not at all, for
    seconds at a time, so that no choice among the samples finds the truth.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)


def main(source: TextIO, sink: TextIO, *, loader: NetworkLoader | None = None) -> None:
    """Serve one shard: read its tasks from `source`, write an outcome per task to `sink`."""
    request: dict[str, Any] = json.load(source)
    backend = make_backend(request["backend"], request["device"])
    processors = sorted(os.sched_getaffinity(0))
    backend.pin(request["threads"])

    def send(message: dict[str, Any]) -> None:
        sink.write(json.dumps(message) + "\n")
        sink.flush()

    for index, values in enumerate(request["tasks"]):
        outcome: dict[str, Any] = {"index": index}
        try:
            task = TimingTask.from_json(values)
            progress = _sometimes(index, send)
            timing, clocks = run_task(
                backend,
                task,
                threads=request["threads"],
                progress=progress,
                loader=loader,
                processors=processors,
            )
            outcome["timing"] = dataclasses.asdict(timing)
            outcome["clocks"] = [vars(reading) for reading in clocks]
        except Exception as error:  # any failure of a backend is a result
            outcome["error"] = f"{type(error).__name__}: {error}"[:2000]
        send(outcome)


def _sometimes(index: int, send: Callable[[dict[str, Any]], None]) -> Callable[[float], None]:
    """Progress of one task, sent rarely enough not to disturb what is measured."""
    sent = time.monotonic()

    def progress(fraction: float) -> None:
        nonlocal sent
        if time.monotonic() - sent >= _PROGRESS_EVERY_S:
            sent = time.monotonic()
            send({"index": index, "progress": fraction})

    return progress


def serve(loader: NetworkLoader | None = None) -> None:
    """Be the measuring process: serve the shard on stdin, ahead of other work of the machine."""
    # Libraries that print must not corrupt the protocol.
    protocol, sys.stdout = sys.stdout, sys.stderr
    end_with_parent()
    raise_priority()
    main(sys.stdin, protocol, loader=loader)


if __name__ == "__main__":
    serve()
