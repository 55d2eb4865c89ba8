"""Move measurements between databases: CSV, Parquet, and SQLite files with all that is known."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import tempfile
import uuid
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import parquet

from autotune.core.errors import DatabaseError, UsageError, option_name, storage_errors
from autotune.core.files import file_sha256, write_whole
from autotune.core.forms import parse_form
from autotune.core.text import first_line
from autotune.core.types import LARGEST_INTEGER, Fingerprint, canonical_json, from_mapping
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase, timestamp
from autotune.profiler.database.records import Origin, Row, RunContents
from autotune.profiler.database.rows import COLUMNS, LINEAR, OPTIONAL, as_row, from_row

_ADVICE = "give another file"
_SUFFIXES = (".csv", ".parquet")
_WANTED = {
    int: f"a whole number from 0 to {LARGEST_INTEGER}",
    float: "a number above 0",
    str: "text",
}
# Of an export: `form` repeats what kind and rank say, in the spelling of the command line.
_FIELDS = [name for known in COLUMNS for name in ((known, "form") if known == "rank" else (known,))]


def export_table(database: LatencyDatabase, path: Path) -> int:
    """Write all rows with their fingerprint records to `path` (.csv or .parquet).

    Returns the number of rows. The file appears whole or not at all.

    Raises:
        UsageError: another suffix, or a file there that is no earlier export.
        StorageError: the file cannot be written.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{path.name}: write to a .csv or .parquet file")
    with storage_errors(path, _ADVICE):
        if path.is_file() and not _is_export(path):
            raise UsageError(f"{path} exists and is no export of a latency database; {_ADVICE}")
    rows = [
        {
            "fingerprint": canonical_json(fingerprint.to_json()),
            **as_row(row),
            "form": str(row.shape.form),
        }
        for key, fingerprint in database.fingerprints().items()
        for row in database.rows(key)
    ]
    frame = pd.DataFrame(rows, columns=["fingerprint", *_FIELDS])

    def build(temporary: Path) -> None:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False, float_format="%.17g")
        else:
            frame.to_parquet(temporary, index=False)

    write_whole(path, build, advice=_ADVICE)
    return len(frame)


def _is_export(path: Path) -> bool:
    """Whether an earlier export wrote this file, by the names of its columns."""
    try:
        if path.suffix == ".csv":
            names = list(pd.read_csv(path, nrows=0).columns)
        else:
            names = parquet.read_schema(path).names  # type: ignore[no-untyped-call]
    except (ValueError, OSError):
        return False
    # Which the oldest did not have.
    return {"fingerprint", *COLUMNS} <= {*names, "kind", *OPTIONAL}


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


def read_table(path: Path) -> list[tuple[Fingerprint, list[Row]]]:
    """The fingerprints of an exported file, and their points.

    Raises:
        UsageError: unreadable file, or columns or cells that are not those of an export.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{path} is no .csv or .parquet file")
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, ImportError) as error:
        text = first_line(error)
        cause = text.partition(f"'{path}': ")[2] or text  # pyarrow names the file once more
        raise UsageError(f"{path} is no readable {path.suffix} file: {cause}") from error
    if "kind" not in frame.columns:
        frame["kind"] = LINEAR  # exported before there were joint sites
    for name in OPTIONAL:
        if name not in frame.columns:
            frame[name] = math.nan
    expected = ["fingerprint", *COLUMNS]
    if sorted(frame.columns.drop("form", errors="ignore")) != sorted(expected):
        missing = sorted(set(expected) - set(frame.columns))
        raise UsageError(f"{path} is no export of a latency database (missing {missing[:3]})")
    frame, found = frame.reset_index(drop=True), []
    for record, part in frame.groupby(frame["fingerprint"].map(str), dropna=False):
        rows: list[Row] = []
        for index, values in zip(part.index, part.to_dict("records"), strict=True):
            with _at(f"{path}, row {index + 1}"):
                if not rows:
                    fingerprint = _fingerprint(str(record))
                rows.append(_row(values))
        found.append((fingerprint, rows))
    return found


@contextlib.contextmanager
def _at(place: str) -> Iterator[None]:
    """Prefix the message of a `UsageError` with the place in the file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error


def _fingerprint(text: str) -> Fingerprint:
    """The fingerprint of a cell.

    Raises:
        UsageError: the cell holds something else.
    """
    try:
        found = from_mapping(Fingerprint, json.loads(text))
        texts = [found.device, found.device_name, found.backend, found.dtype]
        texts += [*found.versions.values(), *found.settings.values()]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _mismatch("fingerprint", text, wanted="the JSON of a fingerprint") from error
    if type(found.threads) is not int or not all(isinstance(one, str) for one in texts):
        raise _mismatch("fingerprint", text, wanted="text, with a whole number of threads")
    return found


def _cell(name: str, value: Any) -> int | float | str | None:
    """A cell of one of `COLUMNS`; None where a failed measurement has no time, or no error.

    Raises:
        UsageError: no such value can be in that column.
    """
    kind = COLUMNS[name]
    try:
        missing = bool(pd.isna(value))  # a missing number reads back as NaN
        found = None if missing else kind(value)
        fits = kind is float or name == "error" if found is None else _fits(found, value)
    except (ValueError, TypeError, OverflowError) as error:
        raise _mismatch(name, value, wanted=_WANTED[kind]) from error
    if not fits:
        raise _mismatch(name, value, wanted=_WANTED[kind])
    return found


def _fits(found: int | float | str, value: Any) -> bool:
    """Whether a database can hold it: `int` would have cut off a fraction of `value`."""
    if isinstance(found, int):
        return found == float(value) and 0 <= found <= LARGEST_INTEGER
    return isinstance(found, str) or 0 < found < math.inf


def _mismatch(name: str, value: Any, *, wanted: str) -> UsageError:
    return UsageError(f"{name} must be {wanted}, got {str(value)[:80]!r}")


def _row(values: dict[Hashable, Any]) -> Row:
    """One row of a file, whose `form` (from before there were forms: none) must fit its kind."""
    clean = {name: _cell(name, values[name]) for name in COLUMNS}
    row = from_row(clean)
    form = values.get("form")
    if isinstance(form, str) and parse_form(form) != row.shape.form:
        raise UsageError(f"kind {clean['kind']} and rank {clean['rank']} are not the form {form}")
    return row


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
    if source.suffix in _SUFFIXES:
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
