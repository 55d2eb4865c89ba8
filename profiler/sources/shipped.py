"""Latency databases that come with the package: measured with this profiler on devices of ours.

`DEVICE.parquet` holds the points that a device is predicted from, those of every backend and dtype
under a fingerprint of its own; `DEVICE.WHAT.parquet` would be another day, which answers nothing.
`SHA256SUMS` lists all files (`sha256sum -c` reads it); `benchmarks/ship_database.py` writes both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.errors import DatabaseError
from autotune.core.files import file_sha256
from autotune.core.types import Fingerprint
from autotune.profiler.database.records import Measurement, Row, measured_rows
from autotune.profiler.database.table_file import FileFacts, read_facts, read_table

if TYPE_CHECKING:
    from autotune.profiler.database.latency import LatencyDatabase

SUMS = "SHA256SUMS"
_FOLDER = files("autotune.profiler") / "data"
_SUFFIX = ".parquet"
_ADVICE = "reinstall lowrank-autotune: `pip install --force-reinstall --no-deps lowrank-autotune`"


@dataclass(frozen=True, kw_only=True)
class ShippedFile:
    """One file of the package: its device, what it says of itself, and points by fingerprint."""

    name: str
    device: str
    sha256: str
    size_bytes: int
    facts: FileFacts
    points: tuple[tuple[Fingerprint, int], ...]


def shipped_devices() -> tuple[str, ...]:
    """Devices with a database in the package."""
    stems = (name.removesuffix(_SUFFIX) for name in _file_names())
    return tuple(stem for stem in stems if "." not in stem)


def shipped_tables(device: str, dtype: str) -> list[tuple[Fingerprint, list[Measurement]]]:
    """The fingerprints of `device` in `dtype` and their points, those with most points first.

    Raises:
        DatabaseError: the file is not the one that was shipped.
    """
    if device not in shipped_devices():
        return []
    found = _read(device, wanted=lambda fingerprint: fingerprint.dtype == dtype)
    tables = [(fingerprint, measured_rows(rows)) for fingerprint, rows in found]
    return sorted(tables, key=lambda table: -len(table[1]))


def load_shipped(database: LatencyDatabase, device: str) -> int:
    """Copy the shipped points of `device` into a database; returns how many were read.

    Raises:
        DatabaseError: the file is not the one that was shipped.
    """
    from autotune.profiler.database.latency import measured_here

    tables = _read(device)
    for fingerprint, rows in tables:
        origin = dataclasses.replace(measured_here(), kind="shipped")
        run = database.start_run(fingerprint, "shipped with the package", origin=origin)
        database.add(run, rows)
    return sum(len(rows) for _, rows in tables)


def shipped_files() -> list[ShippedFile]:
    """Every shipped file, by name.

    Raises:
        DatabaseError: one of them is not the one that was shipped.
    """
    found = []
    for name in _file_names():
        with _verified(name) as path:
            shipped = ShippedFile(
                name=name,
                device=name.partition(".")[0],
                sha256=file_sha256(path),
                size_bytes=path.stat().st_size,
                facts=read_facts(path),
                points=tuple((record, len(rows)) for record, rows in read_table(path)),
            )
        found.append(shipped)
    return found


def _file_names() -> list[str]:
    return sorted(one.name for one in _FOLDER.iterdir() if one.name.endswith(_SUFFIX))


def _read(
    device: str, *, wanted: Callable[[Fingerprint], bool] = lambda _: True
) -> list[tuple[Fingerprint, list[Row]]]:
    with _verified(device + _SUFFIX) as path:
        return read_table(path, wanted=wanted)


@contextmanager
def _verified(name: str) -> Iterator[Path]:
    """The path of a shipped file, whose content is what `SHA256SUMS` says.

    Raises:
        DatabaseError: it is not.
    """
    lines = (_FOLDER / SUMS).read_text(encoding="ascii").splitlines()
    sums = {listed: digest for digest, listed in map(str.split, lines)}
    with as_file(_FOLDER / name) as path:
        if name not in sums:
            raise DatabaseError(f"{path} is not in {SUMS} beside it; {_ADVICE}")
        if file_sha256(path) != sums[name]:
            raise DatabaseError(f"{path} is damaged: its sha256 is not that of {SUMS}; {_ADVICE}")
        yield path
