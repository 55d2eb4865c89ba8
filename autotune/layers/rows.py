"""Many layers at once: rows in, the same rows out with latency, ratio, both intervals and source.

Rows have the columns tokens, in_features, out_features and rank (empty for the dense layer), and
optionally dtype and form. Files hold them as CSV with a header, or as one JSON object a line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import UsageError
from autotune.layers.answers import ANSWERED, Answers, KnownDevice
from autotune.layers.cells import NEEDED, Cells
from autotune.layers.options import PredictOptions

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of a file by columns, all of one length, under the names that the file has.

    `overlong` has the cells behind the last column, by row. `objects` are the rows of JSON lines,
    which are written as they came.
    """

    cells: Cells
    columns: tuple[str, ...]
    overlong: Mapping[int, Sequence[str]] = field(default_factory=dict)
    objects: tuple[Row, ...] = ()


def read_rows(text: str) -> Table:
    """The rows of CSV or of JSON lines, told apart by their first character.

    Raises:
        UsageError: no rows, a column that is needed and missing, or a line that is no object.
    """
    table = _json_lines(text) if text.lstrip()[:1] == "{" else _csv(text)
    if not any(map(len, table.cells.values())):
        raise UsageError("no rows were given")
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise UsageError(
            f"rows must have the columns {', '.join(NEEDED)}, and may have rank, dtype and form; "
            f"missing: {', '.join(missing)}"
        )
    return table


def predict_rows(table: Table, options: PredictOptions) -> Answers:
    """What `ANSWERED` names, (n,) each in the order of the rows.

    A row that cannot be answered has NaN, and the reason in `source`.

    Raises:
        UsageError: nothing is known of the device, or it cannot be used.
        DeviceMissingError: the device is neither here nor known.
    """
    refused = {
        row: UsageError(f"has more cells than the header: {cells}"[:200])
        for row, cells in table.overlong.items()
    }
    return KnownDevice(options, style="cli").answer(table.cells, refused)


def write_rows(table: Table, answers: Answers) -> str:
    """The rows with their answers behind them, in the format that they came in."""
    found = {name: _cells(answers[name]) for name in ANSWERED}
    if table.objects:
        return "".join(
            json.dumps({**row, **dict(zip(ANSWERED, answer, strict=True))}) + "\n"
            for row, answer in zip(table.objects, zip(*found.values(), strict=True), strict=True)
        )
    kept = [name for name in table.columns if name not in ANSWERED]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*kept, *ANSWERED])
    columns = [*(table.cells[name] for name in kept), *found.values()]
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def _cells(column: NDArray[Any]) -> list[Any]:
    """Numbers and texts of Python; None for NaN."""
    cells: list[Any] = column.tolist()
    if column.dtype == np.float64:
        for row in np.flatnonzero(np.isnan(column)).tolist():
            cells[row] = None
    return cells


def _csv(text: str) -> Table:
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")))
    columns = tuple(name.strip() for name in next(reader, ()))
    rows = [row for row in reader if row]
    width = len(columns)
    overlong = {i: row[width:] for i, row in enumerate(rows) if len(row) > width}
    for i in overlong:
        rows[i] = rows[i][:width]
    by_column = [*zip_longest(*rows, fillvalue="")]
    by_column += [("",) * len(rows)] * (width - len(by_column))
    cells = dict(zip(columns, by_column, strict=True))
    return Table(cells=cells, columns=columns, overlong=overlong)


def _json_lines(text: str) -> Table:
    lines = enumerate(text.splitlines(), start=1)
    objects = tuple(_object(line, number) for number, line in lines if line.strip())
    columns = tuple(dict.fromkeys(name for row in objects for name in row))
    cells = {name: [row.get(name) for row in objects] for name in columns}
    return Table(cells=cells, columns=columns, objects=objects)


def _object(line: str, number: int) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"line {number} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"line {number} must be a JSON object")
    return found
