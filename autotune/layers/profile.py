"""Measure layers of a device: those asked for, a hundred well-chosen ones, or all standard ones."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from autotune.core.layers import LayerShape
from autotune.core.progress import Advance, no_progress
from autotune.devices.roofline import Roofline
from autotune.predictor.layers.measuring_plan import (
    first_layers,
    next_layers,
    pairs_of,
    standard_pool,
)
from autotune.predictor.layers.recovery import RecoveryProcess
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.settling import Settled, measure_wanted
from autotune.profiler.measure.timing import TimingPolicy
from autotune.tuning.measuring import MeasuringMachine
from autotune.tuning.network_timing import layer_looks

QUICK_LAYERS = 25
_FIRST, _WAVE = 13, 4
_LIMIT_S = 105.0
_FULL_SHARES = (0.05, 0.15, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """What came of it: points wanted, those of them that were measured now, and errors.

    `settled` of all wanted points are known for sure.
    """

    wanted: int
    measured: int
    failed: tuple[str, ...]
    settled: int

    def __add__(self, other: Profiled) -> Profiled:
        """The counts of both added up, failures of both in their order."""
        return Profiled(
            wanted=self.wanted + other.wanted,
            measured=self.measured + other.measured,
            failed=self.failed + other.failed,
            settled=self.settled + other.settled,
        )


def profile_points(
    machine: MeasuringMachine,
    database: LatencyDatabase,
    *,
    wanted: Iterable[LayerShape],
    policy: TimingPolicy,
    advance: Advance = no_progress,
) -> Profiled:
    """Measure those of `wanted` that are missing or in doubt."""
    shapes = set(wanted)
    found = measure_wanted(
        database,
        machine.fingerprint,
        wanted=shapes,
        doubtful=machine.doubtful(shapes),
        runner=machine.runner,
        policy=policy,
        looks=layer_looks(machine.spec.kind, machine.threads),
        stage=lambda again: nullcontext(advance),
    )
    settled = Settled.of(database.measurements(machine.fingerprint.id), shapes)
    return Profiled(
        wanted=len(shapes),
        measured=found.measured - len(found.failed),
        failed=tuple(row.error for row in found.failed),
        settled=settled.settled,
    )


def profile_full(
    machine: MeasuringMachine,
    database: LatencyDatabase,
    *,
    policy: TimingPolicy,
    advance: Advance = no_progress,
) -> Profiled:
    """Measure the standard layers at eight ranks each."""
    pool = standard_pool(machine.spec, machine.dtype)
    wanted = [
        s for dense in pool for s in (dense, *pairs_of(dense, machine.spec, shares=_FULL_SHARES))
    ]
    return profile_points(machine, database, wanted=wanted, policy=policy, advance=advance)


def profile_quick(
    machine: MeasuringMachine,
    database: LatencyDatabase,
    *,
    policy: TimingPolicy,
    advance: Advance = no_progress,
) -> Profiled:
    """Measure 25 of the standard layers at three ranks each, a hundred points, in waves.

    Each wave is chosen from what the ones before leave unsure; run again, it goes on from what is
    known. Ends early after `_LIMIT_S` seconds.
    """
    spec = machine.spec
    pool = standard_pool(spec, machine.dtype)
    started = time.monotonic()
    layers: list[LayerShape] = []
    found = Profiled(wanted=0, measured=0, failed=(), settled=0)
    while len(layers) < QUICK_LAYERS and time.monotonic() - started < _LIMIT_S:
        left = [dense for dense in pool if dense not in layers]
        count = min(_WAVE, QUICK_LAYERS - len(layers))
        # The first wave is the same each time, so that a second run goes on.
        wave = (
            _wave(machine, database, left=left, count=count)
            if layers
            else first_layers(pool, _FIRST)
        )
        layers += wave
        wanted = [s for dense in wave for s in (dense, *pairs_of(dense, spec))]
        found += profile_points(machine, database, wanted=wanted, policy=policy)
        advance(len(layers), QUICK_LAYERS)
    return found


def profile_next(
    machine: MeasuringMachine,
    database: LatencyDatabase,
    *,
    count: int,
    policy: TimingPolicy,
    advance: Advance = no_progress,
) -> Profiled:
    """Measure `count` points of standard layers beside those that are known, in waves.

    Each wave is what the points so far leave unsure; fewer where no layer of the pool is left.
    """
    pool = standard_pool(machine.spec, machine.dtype)
    tried: set[LayerShape] = set()
    found = Profiled(wanted=0, measured=0, failed=(), settled=0)
    while found.wanted < count:
        rows = database.measurements(machine.fingerprint.id)
        tried |= {row.shape.dense for row in rows}
        left = [dense for dense in pool if dense not in tried]
        if not left:
            break
        wanted: list[LayerShape] = []
        for dense in _wave(machine, database, left=left, count=_WAVE):
            wanted += [dense, *pairs_of(dense, machine.spec)]
        wanted = wanted[: count - found.wanted]
        tried |= {shape.dense for shape in wanted}
        found += profile_points(machine, database, wanted=wanted, policy=policy)
        advance(found.wanted, count)
    return found


def _is_plain_pair(shape: LayerShape) -> bool:
    """Whether it is one layer as a pair of plain factors in native precision."""
    return not shape.is_dense and not shape.parts and not shape.form.suffix


def _wave(
    machine: MeasuringMachine,
    database: LatencyDatabase,
    *,
    left: Sequence[LayerShape],
    count: int,
) -> list[LayerShape]:
    """The next layers to measure: spread over those left, until pairs show what is unsure."""
    spec = machine.spec
    rows = database.measurements(machine.fingerprint.id)
    pairs = [r for r in rows if r.converged and _is_plain_pair(r.shape)]
    shapes = [row.shape for row in pairs]
    if not RecoveryProcess.enough(shapes):
        known = {row.shape.dense for row in rows}
        return first_layers(left, min(count, len(left)), known=known)
    roofline = Roofline.of(spec, machine.threads)
    process = RecoveryProcess(roofline, shapes, ratios=[row.ratio for row in pairs])
    return next_layers(process, left, spec=spec, count=count)
