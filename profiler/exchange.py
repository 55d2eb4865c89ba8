"""Move measurements between databases: CSV, Parquet and whole SQLite files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd

from autotune.errors import DatabaseError, UsageError, storage_errors
from autotune.profiler.database import LatencyDatabase
from autotune.profiler.schema import LINEAR, Measurement
from autotune.types import Fingerprint, canonical_json, from_mapping

_FIELDS = [field.name for field in dataclasses.fields(Measurement)]
_TYPES = {field.name: str(field.type) for field in dataclasses.fields(Measurement)}


def export_table(database: LatencyDatabase, path: Path) -> int:
    """Write all rows with their fingerprint records to `path` (.csv or .parquet).

    Returns the number of rows. The file appears whole or not at all.

    Raises:
        UsageError: another suffix.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{path.name}: write to a .csv or .parquet file")
    rows = [
        {"fingerprint": canonical_json(fingerprint.to_json()), **dataclasses.asdict(row)}
        for key, fingerprint in database.fingerprints().items()
        for row in database.measurements(key, errors=True)
    ]
    frame = pd.DataFrame(rows, columns=["fingerprint", *_FIELDS])
    temporary = path.with_name(f".{path.name}.part")
    with storage_errors(path.parent):
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False, float_format="%.17g")
        else:
            frame.to_parquet(temporary, index=False)
        temporary.replace(path)
    return len(frame)


def import_table(database: LatencyDatabase, path: Path) -> int:
    """Add the rows of an exported .csv or .parquet file; returns how many were read.

    Raises:
        UsageError: unreadable file, or columns that are not those of an export.
    """
    tables = read_table(path)
    for fingerprint, rows in tables:
        database.add(database.start_run(fingerprint, f"import {path.name}"), rows)
    return sum(len(rows) for _, rows in tables)


def read_table(path: Path) -> list[tuple[Fingerprint, list[Measurement]]]:
    """The fingerprints of an exported file, and their points.

    Raises:
        UsageError: unreadable file, or columns that are not those of an export.
    """
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"{path} is no readable .csv or .parquet file: {error}") from error
    if "kind" not in frame.columns:
        frame["kind"] = LINEAR  # exported before there were joint sites
    expected = ["fingerprint", *_FIELDS]
    if sorted(frame.columns) != sorted(expected):
        missing = sorted(set(expected) - set(frame.columns))
        raise UsageError(f"{path} is no export of a latency database (missing {missing[:3]})")
    return [
        (
            from_mapping(Fingerprint, json.loads(str(record))),
            [_measurement(row) for row in part[_FIELDS].to_dict("records")],
        )
        for record, part in frame.groupby("fingerprint")
    ]


def _measurement(values: dict[object, object]) -> Measurement:
    clean: dict[str, int | float | str | None] = {}
    for name, kind in _TYPES.items():
        value = values[name]
        if value is None or value != value:  # a missing number reads back as NaN
            clean[name] = None
        else:
            clean[name] = {"i": int, "f": float, "s": str}[kind[0]](value)
    return from_mapping(Measurement, clean)


def merge(target: LatencyDatabase, source: Path) -> int:
    """Add every point of another database file that `target` lacks; returns rows read.

    Points are kept under their own fingerprint, so measurements of different machines or
    versions never mix.

    Raises:
        DatabaseError: `source` is missing, damaged or fails its hashes.
    """
    if not source.is_file():
        raise DatabaseError(f"{source} does not exist")
    count = 0
    with LatencyDatabase(source) as other:
        problems = other.verify()
        if problems:
            raise DatabaseError(f"{source} was not merged: {problems[0]}")
        for key, fingerprint in other.fingerprints().items():
            rows = other.measurements(key, errors=True)
            target.add(target.start_run(fingerprint, f"merge {source.name}"), rows)
            count += len(rows)
    return count
