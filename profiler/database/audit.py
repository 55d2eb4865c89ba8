"""Whether a database is what was measured, and whether that is possible at all."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from autotune.core.layers import LayerShape
from autotune.core.types import Fingerprint, from_mapping
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec, known_devices
from autotune.profiler.database import seals
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Measurement, timestamp
from autotune.profiler.database.rows import as_row
from autotune.profiler.database.schema import FINGERPRINT, KEY, QUARANTINE, RUN

# No kernel beats its device's arithmetic; clocks above the sheet's and rounding take the rest.
_SLACK = 0.9
# A ratio and the seconds it is of come from the same calls.
_INCONSISTENT = 4.0


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A point that cannot be right."""

    fingerprint_id: str
    row: Measurement
    reason: str


def find_problems(database: LatencyDatabase) -> list[str]:
    """What was changed or lost: the database's own check, every run's seal, every fingerprint."""
    with database.transaction() as connection:
        problems = database.dialect.problems(connection)
        for row in connection.execute(sa.select(RUN)):
            if seals.true_seal(connection, row.id) != row.sha256:
                problems.append(f"run {row.id}: its rows do not match their sha256")
        for row in connection.execute(sa.select(FINGERPRINT)):
            try:
                intact = from_mapping(Fingerprint, json.loads(row.record)).id == row.id
            except (ValueError, TypeError):
                intact = False
            if not intact:
                problems.append(f"fingerprint {row.id}: its record does not match its id")
    return problems


def find_suspects(database: LatencyDatabase) -> list[Suspect]:
    """Points that no device could have measured and that are not in quarantine yet."""
    specs = known_devices()
    return [
        Suspect(fingerprint_id=key, row=row, reason=reason)
        for key, fingerprint in database.fingerprints().items()
        for row in database.measurements(key)
        if (reason := _impossible(row, specs.get(fingerprint.device)))
    ]


def quarantine(database: LatencyDatabase, suspects: list[Suspect]) -> None:
    """Leave points out of every table of latencies from now on; nothing is deleted."""
    with database.transaction() as connection:
        for suspect in suspects:
            key = {name: value for name, value in as_row(suspect.row).items() if name in KEY}
            row = {"fingerprint_id": suspect.fingerprint_id, **key}
            values = {**row, "reason": suspect.reason, "found_at": timestamp()}
            insert = database.dialect.insert(QUARANTINE).values(values)
            connection.execute(insert.on_conflict_do_nothing())


def _impossible(row: Measurement, spec: DeviceSpec | None) -> str | None:
    """Why the point cannot be right, if it cannot."""
    found = row.latency_s / row.dense_latency_s / row.ratio
    if not 1 / _INCONSISTENT < found < _INCONSISTENT:
        return f"its latency is {found:.3g} times the one that its ratio implies"
    # A CPU's sheet stands for all CPUs, so it bounds nothing.
    if spec is None or spec.kind == "cpu":
        return None
    least = least_latency_s(spec, row.shape)
    if row.latency_s < _SLACK * least:
        return (
            f"{row.latency_s:.3g} s is less than the {least:.3g} s that {spec.name}'s peak rates "
            "allow"
        )
    return None


def least_latency_s(spec: DeviceSpec, shape: LayerShape) -> float:
    """Seconds below which no kernel of the shape can be: arithmetic, and what no cache holds."""
    arithmetic_s = shape.flops / spec.peak_flops.get(shape.dtype, float("inf"))
    weights = shape.parameters * DTYPE_BYTES[shape.dtype] - spec.cache_bytes
    return max(arithmetic_s, weights / spec.bandwidth_bytes_s)
