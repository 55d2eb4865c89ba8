"""Latencies of single layers on a device that is here or elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.core.types import Address
from autotune.tune.target import Target

if TYPE_CHECKING:
    from autotune.predictor.base import LatencyPredictor


def layer_predictor(
    target: Target, threads: int | None, database: Address, guess: bool
) -> tuple[LatencyPredictor, list[str]]:
    """What answers for a layer on `target`, and what it goes by.

    A device that is here is answered from its measurements in `database`, another from its table.
    `guess` allows shapes far from everything measured.
    """
    if not target.is_here:
        return target.table.predictor, list(target.table.sources)
    from autotune.devices.detect import check_threads
    from autotune.devices.roofline import Roofline
    from autotune.predictor.layers.table import LatencyTable
    from autotune.profiler.database.latency import LatencyDatabase
    from autotune.profiler.measure.points import fingerprint_of

    spec, count = target.spec, check_threads(threads)
    fingerprint = fingerprint_of(target.device, target.backend, target.dtype, count)
    with LatencyDatabase(database) as store:
        rows = store.measurements(fingerprint.id)
    roofline, cliff = Roofline.of(spec, count), spec.cliff(target.dtype)
    table = LatencyTable(rows, roofline, allow_extrapolation=guess, cliff=cliff)
    return table, [f"measurements of {fingerprint.id} in {database}"]
