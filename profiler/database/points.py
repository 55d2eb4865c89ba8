"""A user's own points of a device: a CSV file of six columns, from whatever timed them.

Columns are tokens, in_features, out_features, rank (empty for the dense layer), dtype and seconds.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

from autotune.core.errors import UsageError
from autotune.core.forms import Form
from autotune.core.layers import LayerShape
from autotune.core.types import LARGEST_INTEGER, Fingerprint
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Measurement, Origin, timestamp

COLUMNS = ("tokens", "in_features", "out_features", "rank", "dtype", "seconds")
_ALSO = {"in": "in_features", "out": "out_features"}
# Seconds of an hour are milliseconds or microseconds; so is more than the peak of the sheet.
_MOST_S = 3600.0
# Boards that are sold as one may run faster than the sheet's clock.
_ABOVE_PEAK = 1.5


def import_points(database: LatencyDatabase, path: Path, *, spec: DeviceSpec) -> int:
    """Add a file's points to what is known of a device; how many layers they are.

    Raises:
        UsageError: an unreadable file, other columns, a line that is no point (named by its
            number), or a pair without its dense layer.
        DatabaseError: the database refuses a row.
    """
    seen = read_points(path, spec)
    origin = Origin(kind="file", name=path.name, version="")
    for dtype in sorted({shape.dtype for shape in seen}):
        own = {shape: seconds for shape, seconds in seen.items() if shape.dtype == dtype}
        run = database.start_run(_fingerprint(spec, dtype), f"points of {path.name}", origin=origin)
        rows = [
            point_measurement(shape, latency_s=seconds, dense_latency_s=own[shape.dense])
            for shape, seconds in own.items()
        ]
        database.add(run, rows, remeasured=own)  # a later file corrects an earlier one
    return len(seen)


def read_points(path: Path, spec: DeviceSpec) -> dict[LayerShape, float]:
    """Seconds of each layer in a file; of one that is there more than once, the median.

    Raises:
        UsageError: as `import_points`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    rows = csv.reader(lines)
    names = [_ALSO.get(name.strip(), name.strip()) for name in next(rows, [])]
    if sorted(names) != sorted(COLUMNS):
        raise UsageError(f"{path} must have the columns {','.join(COLUMNS)}, not {','.join(names)}")
    timed: dict[LayerShape, list[float]] = {}
    for number, cells in enumerate(rows, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        try:
            shape, seconds = _point(names, cells, spec=spec)
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        timed.setdefault(shape, []).append(seconds)
    if not timed:
        raise UsageError(f"{path} has no points")
    for shape in timed:
        if shape.dense not in timed:
            size = f"{shape.tokens} tokens, {shape.in_features}x{shape.out_features}"
            raise UsageError(
                f"{path}: {size}, rank {shape.rank} in {shape.dtype} has no dense layer beside it; "
                "add the line without a rank, since ratios are to the dense layer"
            )
    return {shape: statistics.median(seconds) for shape, seconds in timed.items()}


def _point(
    names: Sequence[str], cells: Sequence[str], *, spec: DeviceSpec
) -> tuple[LayerShape, float]:
    if len(cells) != len(names):
        raise UsageError(f"needs {len(names)} cells, has {len(cells)}")
    values = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    if values["dtype"] not in spec.peak_flops:
        known = ", ".join(name for name in DTYPE_BYTES if name in spec.peak_flops)
        raise UsageError(f"dtype must be one of {known}, not {values['dtype']!r}")
    shape = LayerShape(
        tokens=_whole("tokens", values["tokens"]),
        in_features=_whole("in_features", values["in_features"]),
        out_features=_whole("out_features", values["out_features"]),
        form=Form(rank=_whole("rank", values["rank"]) if values["rank"] else 0),
        dtype=values["dtype"],
    )
    largest = min(shape.in_features, shape.out_features)
    if shape.rank > largest:
        raise UsageError(f"rank must be at most {largest}, got {shape.rank}")
    return shape, _seconds(values["seconds"], least_s=_least_s(shape, spec))


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 11):
        raise UsageError(f"{name} must be a whole number above 0, got {text[:40]!r}")
    value = int(text)
    if not 1 <= value <= LARGEST_INTEGER:
        raise UsageError(f"{name} must be from 1 to {LARGEST_INTEGER}, got {text}")
    return value


def _seconds(text: str, *, least_s: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"seconds must be a number, got {text[:40]!r}") from None
    if not least_s <= value <= _MOST_S:
        raise UsageError(
            f"seconds must be from {least_s:.2g}, the peak of the device's sheet, to {_MOST_S:g}, "
            f"got {text[:40]}; are they in another unit?"
        )
    return value


def _least_s(shape: LayerShape, spec: DeviceSpec) -> float:
    return shape.flops / (_ABOVE_PEAK * spec.peak_flops[shape.dtype])


def _fingerprint(spec: DeviceSpec, dtype: str) -> Fingerprint:
    """One for all files of a device: their points are one table."""
    return Fingerprint(
        device=spec.name,
        device_name=spec.title,
        backend="points",
        dtype=dtype,
        threads=1,
    )


def point_measurement(
    shape: LayerShape, *, latency_s: float, dense_latency_s: float
) -> Measurement:
    """One point: how often it was timed, and how far apart, whoever gives it does not tell."""
    ratio = latency_s / dense_latency_s
    return Measurement(
        shape=shape,
        latency_s=latency_s,
        dense_latency_s=dense_latency_s,
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        rounds=0,
        windows=0,
        disturbed_windows=0,
        converged=True,
        measured_at=timestamp(),
    )
