"""Measurements as a table in one file, CSV or Parquet: what `db export` writes.

A Parquet file also says of itself which version of the schema it has, when and by what it was made
and, where that was given, who may use it: `FileFacts`, as JSON under `METADATA_KEY`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.errors import ANOTHER_PATH, UsageError
from autotune.core.files import write_whole
from autotune.core.forms import parse_form
from autotune.core.text import first_line
from autotune.core.types import Fingerprint, canonical_json
from autotune.profiler.database.cells import fits_whole, parse_cell, parse_fingerprint
from autotune.profiler.database.records import Row
from autotune.profiler.database.rows import COLUMNS, LINEAR, OPTIONAL, SCHEMA, as_row, from_row

SUFFIXES = (".csv", ".parquet")
METADATA_KEY = b"autotune"
# `form` repeats what kind and rank say, in the spelling of the command line.
FIELDS = [name for known in COLUMNS for name in ((known, "form") if known == "rank" else (known,))]
_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a Parquet file of measurements says of itself.

    `schema` is the version of the points' columns, `license` an SPDX expression, `script` the
    program of this repository that made the file. What is not known is empty.
    """

    schema: int = SCHEMA
    program: str = ""
    created_at: str = ""
    license: str = ""
    author: str = ""
    script: str = ""


def write_table(
    path: Path,
    tables: Iterable[tuple[Fingerprint, Sequence[Row]]],
    *,
    facts: FileFacts,
    advice: str = ANOTHER_PATH,
) -> None:
    """Write rows with the records of their fingerprints; a .csv file has no place for `facts`.

    The file appears whole or not at all.

    Raises:
        StorageError: it cannot be written; `advice` says what to do.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("fingerprint", *FIELDS)}
    for fingerprint, rows in tables:
        record = canonical_json(fingerprint.to_json())
        for row in rows:
            values = {"fingerprint": record, **as_row(row), "form": str(row.shape.form)}
            for name, value in values.items():
                columns[name].append(value)

    def build(temporary: Path) -> None:
        if path.suffix == ".csv":
            _write_csv(temporary, columns)
        else:
            _write_parquet(temporary, columns, facts=facts)

    write_whole(path, build, advice=advice)


def _write_csv(path: Path, columns: Mapping[str, list[Any]]) -> None:
    import pandas as pd

    pd.DataFrame(dict(columns)).to_csv(path, index=False, float_format="%.17g")


def _write_parquet(path: Path, columns: Mapping[str, list[Any]], *, facts: FileFacts) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    fields = [(name, kinds[COLUMNS.get(name, str)]) for name in columns]
    metadata = {METADATA_KEY: json.dumps(dataclasses.asdict(facts))}
    table = pyarrow.table(dict(columns), schema=pyarrow.schema(fields, metadata=metadata))
    parquet.write_table(table, path)


def is_export(path: Path) -> bool:
    """Whether `write_table` wrote this file once, by the names of its columns."""
    try:
        names = _column_names(path)
    except (ValueError, OSError):
        return False
    # Which the oldest did not have.
    return {"fingerprint", *COLUMNS} <= {*names, "kind", *OPTIONAL}


def _column_names(path: Path) -> list[str]:
    if path.suffix == ".csv":
        import pandas as pd

        return list(pd.read_csv(path, nrows=0).columns)
    from pyarrow import parquet

    return list(parquet.read_schema(path).names)


def read_facts(path: Path) -> FileFacts:
    """What a Parquet file says of itself; of one that says nothing, all is empty and schema 0.

    Raises:
        UsageError: unreadable file, or one that only a newer version of this program reads.
    """
    from pyarrow import parquet

    return _facts(path, _opened(path, parquet.read_schema).metadata or {})


def read_table(
    path: Path, *, wanted: Callable[[Fingerprint], bool] = lambda _: True
) -> list[tuple[Fingerprint, list[Row]]]:
    """The fingerprints of an exported file, and their points; those `wanted` alone.

    Raises:
        UsageError: unreadable file, one that only a newer version of this program reads, or columns
            or cells that are not those of an export.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is no .csv or .parquet file")
    columns = _csv_columns(path) if path.suffix == ".csv" else _parquet_columns(path)
    count = len(next(iter(columns.values()), []))
    columns.setdefault("kind", [LINEAR] * count)  # exported before there were joint sites
    for name in OPTIONAL:
        columns.setdefault(name, [None] * count)
    expected = {"fingerprint", *COLUMNS}
    if columns.keys() - {"form"} != expected:
        missing = sorted(expected - columns.keys())
        raise UsageError(f"{path} is no export of a latency database (missing {missing[:3]})")
    places: dict[str, list[int]] = {}
    for index, text in enumerate(columns.pop("fingerprint")):
        places.setdefault(str(text), []).append(index)
    tables = (
        _table(path, text, columns=columns, indices=indices, wanted=wanted)
        for text, indices in sorted(places.items())
    )
    return [table for table in tables if table is not None]


def _table(
    path: Path,
    text: str,
    *,
    columns: Mapping[str, list[Any]],
    indices: Sequence[int],
    wanted: Callable[[Fingerprint], bool],
) -> tuple[Fingerprint, list[Row]] | None:
    """The rows at `indices`, whose fingerprint is `text`; None where it is not wanted."""
    rows: list[Row] = []
    try:
        fingerprint = parse_fingerprint(text)
        if not wanted(fingerprint):
            return None
        parts = {name: [column[i] for i in indices] for name, column in columns.items()}
        doubtful = [name for name in COLUMNS if not fits_whole(name, parts[name])]
        for cells in zip(*parts.values(), strict=True):
            values = dict(zip(parts, cells, strict=True))
            for name in doubtful:
                values[name] = parse_cell(name, values[name])
            rows.append(_row(values))
    except UsageError as error:
        raise UsageError(f"{path}, row {indices[len(rows)] + 1}: {error}") from error
    return fingerprint, rows


def _row(values: Mapping[str, Any]) -> Row:
    """One row of a file, whose `form` (from before there were forms: none) must fit its kind."""
    row, form = from_row(values), values.get("form")
    if isinstance(form, str) and form != str(row.shape.form) and parse_form(form) != row.shape.form:
        kind, rank = values["kind"], values["rank"]
        raise UsageError(f"kind {kind} and rank {rank} are not the form {form}")
    return row


def _csv_columns(path: Path) -> dict[str, list[Any]]:
    import pandas as pd

    frame = _opened(path, pd.read_csv)
    return {str(name): frame[name].tolist() for name in frame.columns}


def _parquet_columns(path: Path) -> dict[str, list[Any]]:
    from pyarrow import parquet

    def read(one: Path) -> tuple[Mapping[bytes, bytes], list[str], list[list[Any]]]:
        with parquet.ParquetFile(one) as file:
            table = file.read()
        columns = [column.to_pylist() for column in table.columns]
        return table.schema.metadata or {}, table.column_names, columns

    metadata, names, columns = _opened(path, read)
    _facts(path, metadata)
    if len({*names}) < len(names):
        raise UsageError(f"{path} is no export of a latency database (a column is there twice)")
    found = dict(zip(names, columns, strict=True))
    # pandas keeps the index of a table that was edited with it as a column.
    return {name: found[name] for name in names if not _INDEX.fullmatch(name)}


def _opened(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of the file.

    Raises:
        UsageError: the library that reads it cannot.
    """
    try:
        return read(path)
    except (OSError, ValueError, ImportError) as error:
        text = first_line(error)
        cause = text.partition(f"'{path}': ")[2] or text  # pyarrow names the file once more
        raise UsageError(f"{path} is no readable {path.suffix} file: {cause}") from error


def _facts(path: Path, metadata: Mapping[bytes, bytes]) -> FileFacts:
    """The facts in a file's metadata; what a later program added to them is left out.

    Raises:
        UsageError: they are none, or of a newer schema.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:  # exported before files said anything of themselves
        return FileFacts(schema=0)
    names = [field.name for field in dataclasses.fields(FileFacts)]
    try:
        record = {**json.loads(text)}
        found = FileFacts(**{name: record[name] for name in names if name in record})
        newer = found.schema > SCHEMA
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path} is no export of a latency database: its metadata are no facts about one"
        ) from error
    if newer:
        raise UsageError(
            f"{path} holds points of schema {found.schema}, and this version of autotune knows "
            f"those up to {SCHEMA}; update lowrank-autotune to read it"
        )
    return found
