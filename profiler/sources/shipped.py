"""Latency databases that come with the package: measured with this profiler on devices of ours.

`benchmarks/device_database.py` made them; `autotune db export FILE.parquet` wrote them.
"""

from __future__ import annotations

import dataclasses
from importlib.resources import as_file, files
from pathlib import Path

from autotune.core.types import Fingerprint
from autotune.profiler.database.exchange import read_table
from autotune.profiler.database.latency import LatencyDatabase, measured_here
from autotune.profiler.database.records import Measurement, measured_rows

_FOLDER = files("autotune.profiler") / "data"


def shipped_devices() -> tuple[str, ...]:
    """Devices with a database in the package."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name[:-8] for name in names if name.endswith(".parquet")))


def shipped_tables(device: str, dtype: str) -> list[tuple[Fingerprint, list[Measurement]]]:
    """The fingerprints of `device` in `dtype` and their points, those with most points first."""
    if device not in shipped_devices():
        return []
    with as_file(_FOLDER / f"{device}.parquet") as path:
        tables = [
            (fingerprint, measured_rows(rows))
            for fingerprint, rows in read_table(Path(path))
            if fingerprint.dtype == dtype
        ]
    return sorted(tables, key=lambda table: -len(table[1]))


def load_shipped(database: LatencyDatabase, device: str) -> int:
    """Copy the shipped points of `device` into a database; returns how many were read."""
    with as_file(_FOLDER / f"{device}.parquet") as path:
        tables = read_table(Path(path))
    for fingerprint, rows in tables:
        origin = dataclasses.replace(measured_here(), kind="shipped")
        run = database.start_run(fingerprint, "shipped with the package", origin=origin)
        database.add(run, rows)
    return sum(len(rows) for _, rows in tables)
