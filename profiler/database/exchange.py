"""Move measurements between databases: CSV, Parquet, and SQLite files with all that is known."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import uuid
from pathlib import Path

from autotune.core.errors import DatabaseError, UsageError, option_name, storage_errors
from autotune.core.files import file_sha256, write_whole
from autotune.core.types import Fingerprint
from autotune.core.version import __version__
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Origin, RunContents, timestamp
from autotune.profiler.database.table_file import (
    SUFFIXES,
    FileFacts,
    is_export,
    read_table,
    write_table,
)

_ADVICE = "give another file"


def export_table(database: LatencyDatabase, path: Path) -> int:
    """Write all rows with their fingerprint records to `path` (.csv or .parquet).

    Returns the number of rows. The file appears whole or not at all.

    Raises:
        UsageError: another suffix, or a file there that is no earlier export.
        StorageError: the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path.name}: write to a .csv or .parquet file")
    with storage_errors(path, _ADVICE):
        if path.is_file() and not is_export(path):
            raise UsageError(f"{path} exists and is no export of a latency database; {_ADVICE}")
    tables = [
        (fingerprint, database.rows(key)) for key, fingerprint in database.fingerprints().items()
    ]
    facts = FileFacts(program=f"lowrank-autotune {__version__}", created_at=timestamp())
    write_table(path, tables, facts=facts, advice=_ADVICE)
    return sum(len(rows) for _, rows in tables)


def import_table(database: LatencyDatabase, path: Path) -> int:
    """Add the rows of an exported .csv or .parquet file, all or none; returns how many were read.

    Raises:
        UsageError: unreadable file, or columns or cells that are not those of an export.
        DatabaseError: the database refuses a row.
    """
    runs = [
        (
            fingerprint,
            RunContents(
                id=uuid.uuid4().hex,
                started_at=timestamp(),
                plan=f"import {path.name}",
                origin=Origin(kind="file", name=path.name, version=""),
                rows=rows,
                details={},
                clocks=(),
            ),
        )
        for fingerprint, rows in read_table(path)
    ]
    database.put_contents(*runs)
    return sum(len(run.rows) for _, run in runs)


def merge(target: LatencyDatabase, source: Path, *, keep_apart: bool = False) -> int:
    """Add every run of another database file; returns the points read.

    Runs come over whole, with their samples, clocks and origin; a run that is there already and a
    point that was measured already change nothing.

    Raises:
        UsageError: `source` is an export.
        DatabaseError: `source` is missing, damaged or fails its hashes; or one of its fingerprints
            differs from one of the same name in `target` and `keep_apart` is not set.
    """
    if not source.is_file():
        raise DatabaseError(f"{source} does not exist")
    if source.suffix in SUFFIXES:
        raise UsageError(f"{source} is an export, not a database; `autotune db import` reads it")
    with LatencyDatabase(source) as other:
        problems = find_problems(other)
        if problems:
            raise DatabaseError(f"{source} was not merged: {problems[0]}")
        if not keep_apart:
            _refuse_namesakes(target, other, source=source)
        return _copy_runs(other, target)


def ship(database: LatencyDatabase, path: Path) -> str:
    """Write everything to one SQLite file that `db merge` reads; returns the file's sha256.

    The file appears whole or not at all.

    Raises:
        DatabaseError: the database fails its hashes.
        UsageError: the file exists already.
        StorageError: the file cannot be written.
    """
    with storage_errors(path, _ADVICE):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists already; give another name")
    problems = find_problems(database)
    if problems:
        raise DatabaseError(f"{database.address} was not shipped: {problems[0]}")

    def build(temporary: Path) -> None:
        # A database has further files beside it while it is open.
        with tempfile.TemporaryDirectory(dir=temporary.parent) as folder:
            found = Path(folder) / path.name
            with LatencyDatabase(found) as copy:
                _copy_runs(database, copy)
            # Without its write-ahead log a database is one file.
            with contextlib.closing(sqlite3.connect(found)) as raw:
                raw.execute("PRAGMA journal_mode=DELETE")
                raw.execute("VACUUM")
            found.replace(temporary)

    return file_sha256(write_whole(path, build, advice=_ADVICE, new=True))


def _copy_runs(source: LatencyDatabase, target: LatencyDatabase) -> int:
    fingerprints = source.fingerprints()
    count = 0
    for run in source.runs():
        contents = source.contents(run["id"])
        target.put_contents((fingerprints[run["fingerprint_id"]], contents))
        count += len(contents.rows)
    return count


def _refuse_namesakes(target: LatencyDatabase, other: LatencyDatabase, *, source: Path) -> None:
    """One device, backend and dtype under two versions or settings is two sets of latencies."""

    def name(fingerprint: Fingerprint) -> tuple[str, ...]:
        return (fingerprint.device, fingerprint.backend, fingerprint.dtype)

    known = target.fingerprints()
    here = {name(fingerprint): (key, fingerprint) for key, fingerprint in known.items()}
    for key, fingerprint in other.fingerprints().items():
        if key in known or name(fingerprint) not in here:
            continue
        own_key, own = here[name(fingerprint)]
        pairs = ((f, getattr(own, f), getattr(fingerprint, f)) for f in vars(own))
        differs = ", ".join(f"{f} {a!r} and {b!r}" for f, a, b in pairs if a != b)
        raise DatabaseError(
            f"{source} has {' '.join(name(fingerprint))} as {key}, here it is {own_key}: "
            f"{differs}; such measurements must not mix, {option_name('keep_apart')} stores them "
            "beside each other"
        )
