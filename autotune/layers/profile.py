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
        wave = _wave(machine, database, pool=pool, layers=layers)
        layers += wave
        wanted = [s for dense in wave for s in (dense, *pairs_of(dense, spec))]
        found += profile_points(machine, database, wanted=wanted, policy=policy)
        advance(len(layers), QUICK_LAYERS)
    return found


def _wave(
    machine: MeasuringMachine,
    database: LatencyDatabase,
    *,
    pool: Sequence[LayerShape],
    layers: Sequence[LayerShape],
) -> list[LayerShape]:
    """The layers that the next wave of `profile_quick` measures."""
    if not layers:
        return first_layers(pool, _FIRST)
    spec = machine.spec
    rows = database.measurements(machine.fingerprint.id)
    pairs = [r for r in rows if r.converged and not r.shape.is_dense and not r.shape.parts]
    left = [dense for dense in pool if dense not in layers]
    count = min(_WAVE, QUICK_LAYERS - len(layers))
    shapes = [row.shape for row in pairs]
    if not RecoveryProcess.enough(shapes):
        return first_layers(left, count)
    roofline = Roofline.of(spec, machine.threads)
    process = RecoveryProcess(roofline, shapes, ratios=[row.ratio for row in pairs])
    return next_layers(process, left, spec=spec, count=count)
