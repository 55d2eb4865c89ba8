"""Measurements as rows of a table: in the latency database, and in exported files.

The columns `kind` and `rank` say what was measured. A kind is the sort of layer and what its form
has besides the rank: `linear`, `linear:pivoted`, `shared:512+128+128:int8-static`; rank 0 is dense.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from autotune.core.errors import UsageError
from autotune.core.forms import Form, parse_form
from autotune.core.layers import LayerShape
from autotune.profiler.database.records import FailedMeasurement, Measurement, Row

# The version of the columns below and of the database's tables: one more with every migration.
SCHEMA = 6
LINEAR = "linear"
_SHARED = "shared"
_TIMES = ("latency_s", "dense_latency_s", "ratio", "ratio_low", "ratio_high")
_COUNTS = ("rounds", "windows", "disturbed_windows")
_MEASURED = (*_TIMES, *_COUNTS)
# Of what few devices count: None in most rows, and not in the files of older versions.
OPTIONAL = ("energy_j", "power_w")
# Every column of a measurement with the type of its values, in the order of an exported file.
COLUMNS: Mapping[str, type] = {
    "kind": str,
    "tokens": int,
    "in_features": int,
    "out_features": int,
    "rank": int,
    "dtype": str,
    **dict.fromkeys(_TIMES, float),
    **dict.fromkeys(_COUNTS, int),
    "converged": int,
    "error": str,
    "measured_at": str,
    **dict.fromkeys(OPTIONAL, float),
}


def kind_of(shape: LayerShape) -> str:
    """The layer's kind, such as `linear:pivoted`, or `shared:512+128+128` for one shared input."""
    kind = f"{_SHARED}:{'+'.join(map(str, shape.parts))}" if shape.parts else LINEAR
    return kind + shape.form.suffix


@functools.lru_cache(maxsize=4096)
def parse_kind(kind: str, rank: int) -> tuple[tuple[int, ...], Form]:
    """The widths of the layers that share an input (none for a single one), and the form.

    Raises:
        UsageError: another spelling, as a newer version may write.
    """
    widths = ""
    head, colon, suffix = kind.partition(":")
    if head == _SHARED:
        widths, colon, suffix = suffix.partition(":")
    try:
        parts = tuple(int(width) for width in widths.split("+")) if widths else ()
        form = parse_form((f"rank={rank}" if rank else "dense") + colon + suffix)
    except ValueError as error:
        raise _unknown(kind) from error
    if head not in (LINEAR, _SHARED) or (head == _SHARED) != bool(parts):
        raise _unknown(kind)
    return parts, form


def _unknown(kind: str) -> UsageError:
    return UsageError(
        f"{kind!r} is no kind of layer; known are linear and shared:N+N+…, each with :structure "
        "and :precision; a newer version of autotune may read it"
    )


def as_row(row: Row) -> dict[str, Any]:
    """The values of all `COLUMNS`; a failed measurement has no times and counts 0."""
    shape = row.shape
    values: dict[str, Any] = {
        "kind": kind_of(shape),
        "tokens": shape.tokens,
        "in_features": shape.in_features,
        "out_features": shape.out_features,
        "rank": shape.rank,
        "dtype": shape.dtype,
    }
    if isinstance(row, FailedMeasurement):
        values |= dict.fromkeys((*_TIMES, *OPTIONAL)) | dict.fromkeys(_COUNTS, 0)
        values |= {"converged": 0, "error": row.error}
    else:
        values |= {name: getattr(row, name) for name in (*_TIMES, *_COUNTS, *OPTIONAL)}
        values |= {"converged": int(row.converged), "error": None}
    values["measured_at"] = row.measured_at
    return {name: values[name] for name in COLUMNS}


def from_row(values: Mapping[str, Any]) -> Row:
    """The measurement, or the failed one, that a row with all `COLUMNS` holds.

    Raises:
        UsageError: a kind that is not known, or a row with neither an error nor all times.
    """
    parts, form = parse_kind(values["kind"], values["rank"])
    shape = LayerShape(
        tokens=values["tokens"],
        in_features=values["in_features"],
        out_features=values["out_features"],
        form=form,
        dtype=values["dtype"],
        parts=parts,
    )
    error, measured_at = values["error"], values["measured_at"]
    found = {name: values[name] for name in _MEASURED}
    if error is not None:
        return FailedMeasurement(shape=shape, error=error, measured_at=measured_at)
    if None in found.values():
        missing = next(name for name, value in found.items() if value is None)
        raise UsageError(f"the measurement of {shape} has neither an error nor a {missing}")
    return Measurement(
        shape=shape,
        **found,
        converged=bool(values["converged"]),
        measured_at=measured_at,
        energy_j=values.get("energy_j"),
        power_w=values.get("power_w"),
    )
