"""Cells of an exported file: what may be in its columns, and what is said of anything else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from autotune.core.errors import UsageError
from autotune.core.types import LARGEST_INTEGER, Fingerprint, from_mapping
from autotune.profiler.database.rows import COLUMNS

_WANTED = {
    int: f"a whole number from 0 to {LARGEST_INTEGER}",
    float: "a number above 0",
    str: "text",
}


def fits_whole(name: str, values: Sequence[Any]) -> bool:
    """Whether all values of one of `COLUMNS` are as they should be, so that none needs a look.

    It may say no where `parse_cell` takes every value.
    """
    kind, found = COLUMNS[name], set(map(type, values))
    if kind is int:
        return found == {int} and min(values) >= 0 and max(values) <= LARGEST_INTEGER
    if kind is float:
        seconds = [value for value in values if value is not None]
        return found <= {float, type(None)} and all(0 < value < math.inf for value in seconds)
    return found <= ({str, type(None)} if name == "error" else {str})


def parse_cell(name: str, value: Any) -> int | float | str | None:
    """A cell of one of `COLUMNS`; None where a failed measurement has no time, or no error.

    Raises:
        UsageError: no such value can be in that column.
    """
    kind = COLUMNS[name]
    try:
        found = None if _is_missing(value) else kind(value)
        fits = kind is float or name == "error" if found is None else _fits(found, value)
    except (ValueError, TypeError, OverflowError) as error:
        raise _mismatch(name, value, wanted=_WANTED[kind]) from error
    if not fits:
        raise _mismatch(name, value, wanted=_WANTED[kind])
    return found


def _is_missing(value: Any) -> bool:
    """Whether a cell is empty: a missing number of a CSV file reads back as NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def parse_fingerprint(text: str) -> Fingerprint:
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


def _fits(found: int | float | str, value: Any) -> bool:
    """Whether a database can hold it: `int` would have cut off a fraction of `value`."""
    if isinstance(found, int):
        return found == float(value) and 0 <= found <= LARGEST_INTEGER
    return isinstance(found, str) or 0 < found < math.inf


def _mismatch(name: str, value: Any, *, wanted: str) -> UsageError:
    return UsageError(f"{name} must be {wanted}, got {str(value)[:80]!r}")
