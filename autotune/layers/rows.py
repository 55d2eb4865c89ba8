"""Many layers at once: rows in, the same rows out with latency, ratio, both intervals and source.

Rows have the columns tokens, in_features, out_features and rank (empty for the dense layer), and
optionally dtype and form. Files hold them as CSV with a header, or as one JSON object a line.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.core.errors import AutotuneError, UsageError
from autotune.core.layers import LayerShape
from autotune.core.option_names import spell
from autotune.core.types import Estimate
from autotune.layers.options import LayerOptions, PredictOptions
from autotune.layers.predict import KnownLayers, machine_options
from autotune.tuning.machines import nearest_machine

NEEDED = ("tokens", "in_features", "out_features")
ASKED = (*NEEDED, "rank", "dtype", "form")
ANSWERED = ("dense_s", "latency_s", "low_s", "high_s", "ratio", "ratio_low", "ratio_high", "source")

Row = Mapping[str, Any]
# Under this name come the cells of a row behind its last column.
_MORE = "\0more"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of a file, with the names of its columns; `is_json`: one object a line."""

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    is_json: bool


def read_rows(text: str) -> Table:
    """The rows of CSV or of JSON lines, told apart by their first character.

    Raises:
        UsageError: no rows, a column that is needed and missing, or a line that is no object.
    """
    is_json = text.lstrip()[:1] == "{"
    table = _json_lines(text) if is_json else _csv(text)
    if not table.rows:
        raise UsageError("no rows were given")
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise UsageError(
            f"rows must have the columns {', '.join(NEEDED)}, and may have rank, dtype and form; "
            f"missing: {', '.join(missing)}"
        )
    return table


def write_rows(table: Table, answers: Sequence[Row]) -> str:
    """The rows with their answers behind them, in the format that they came in."""
    found = [{**row, **answer} for row, answer in zip(table.rows, answers, strict=True)]
    if table.is_json:
        return "".join(json.dumps(row) + "\n" for row in found)
    out = io.StringIO()
    columns = [name for name in table.columns if name not in ANSWERED]
    writer = csv.DictWriter(out, [*columns, *ANSWERED], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()


def predict_rows(rows: Sequence[Row], options: PredictOptions) -> list[dict[str, Any]]:
    """What `ANSWERED` names, of each row in order.

    A row that cannot be answered has empty numbers (None), and the reason in `source`.

    Raises:
        UsageError: nothing is known of the device, or it cannot be used.
        DeviceMissingError: the device is neither here nor known.
    """
    found: dict[int, Estimate | AutotuneError] = {}
    groups: dict[str | None, dict[int, LayerShape]] = {}
    for number, row in enumerate(rows):
        layer = _layer(row)
        if isinstance(layer, LayerShape):
            groups.setdefault(_dtype(row), {})[number] = layer
        else:
            found[number] = layer
    for dtype, asked in groups.items():
        answers = _answers([*asked.values()], options, dtype=dtype)
        found |= zip(asked, answers, strict=True)
    return [_as_row(found[number]) for number in range(len(rows))]


def _answers(
    shapes: Sequence[LayerShape], options: PredictOptions, *, dtype: str | None
) -> Sequence[Estimate | AutotuneError]:
    """Of rows in one dtype; None: the device's usual one, which has to be known."""
    try:
        with nearest_machine(machine_options(options, dtype=dtype or options.dtype)) as machine:
            known = KnownLayers(machine, allow_extrapolation=options.allow_extrapolation)
            return known.answers(shapes)
    except UsageError as error:
        if dtype is None:
            raise
        return [error] * len(shapes)


def _as_row(answer: Estimate | AutotuneError) -> dict[str, Any]:
    if not isinstance(answer, Estimate):
        reason = str(spell(answer, "cli", PredictOptions))
        return {**dict.fromkeys(ANSWERED), "source": reason}
    found = {"dense_s": answer.latency_s / answer.ratio, **answer.to_json()}
    return {name: found[name] for name in ANSWERED}


def _dtype(row: Row) -> str | None:
    return _text(row.get("dtype")) or None


def _layer(row: Row) -> LayerShape | UsageError:
    if _MORE in row:
        return UsageError(f"has more cells than the header: {row[_MORE]}"[:200])
    try:
        return LayerOptions(
            tokens=_whole(row, "tokens"),
            in_features=_whole(row, "in_features"),
            out_features=_whole(row, "out_features"),
            rank=_whole(row, "rank") if _text(row.get("rank")) else None,
            form=_text(row.get("form")) or None,
        ).layer()
    except UsageError as error:
        return error


def _text(value: Any) -> str:
    """A cell as text; empty where nothing is in it, as a missing number of pandas."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value).strip()
    return "" if text.lower() in ("nan", "none", "null") else text


def _whole(row: Row, name: str) -> int:
    """A whole number; 1024.0 is one, as pandas writes a column with empty cells."""
    text = _text(row.get(name))
    whole, _, rest = text.partition(".")
    digits = whole.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18 or rest.strip("0"):
        raise UsageError(f"{name} must be a whole number, got {text[:40]!r}")
    return int(whole)


def _csv(text: str) -> Table:
    text = text.removeprefix("\ufeff")
    reader = csv.DictReader(io.StringIO(text), restval="", restkey=_MORE)
    columns = tuple(name.strip() for name in reader.fieldnames or ())
    reader.fieldnames = columns
    return Table(rows=tuple(reader), columns=columns, is_json=False)


def _json_lines(text: str) -> Table:
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            rows.append(_object(line, number))
    return Table(rows=tuple(rows), columns=tuple(_names(rows)), is_json=True)


def _object(line: str, number: int) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"line {number} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"line {number} must be a JSON object")
    return found


def _names(rows: Iterable[Row]) -> Iterable[str]:
    return dict.fromkeys(name for row in rows for name in row)
