"""`autotune predict`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import (
    Address,
    backend_option,
    database_option,
    device_option,
    dtype_option,
    parse_shape,
    threads_option,
)

if TYPE_CHECKING:
    from autotune.predictor.base import LatencyPredictor


@click.command(
    "predict", epilog="Example: autotune predict --tokens 128 --shape 384x1536 --rank 96"
)
@click.option("--tokens", type=int, required=True, help="Rows M.")
@click.option("--shape", required=True, help="IN_FEATURESxOUT_FEATURES.")
@click.option("--rank", "ranks", type=int, multiple=True, help="Ranks (default: dense only).")
@click.option("--allow-extrapolation", is_flag=True, help="A roofline guess where nothing is near.")
@dtype_option
@device_option
@backend_option
@threads_option
@database_option
@format_option
def command(
    tokens: int, shape: str, ranks: tuple[int, ...], allow_extrapolation: bool,
    dtype: str | None, device: str, backend: str, threads: int | None, database: Address,
    output_format: str,
) -> None:  # fmt: skip
    """Predict a layer's latency, dense and at the given ranks, with interval and source.

    A device that is not here is answered from the database that ships with the package, or from
    what others measured on it.
    """
    from autotune.devices.specs import find_device
    from autotune.errors import DeviceMissingError, UsageError
    from autotune.profiler.imported import imported_devices
    from autotune.profiler.shipped import shipped_devices
    from autotune.units import format_seconds

    spec = find_device(device)
    dense = dataclasses.replace(parse_shape(shape, tokens), dtype=dtype or spec.default_dtype)
    if any(rank < 1 for rank in ranks):
        raise UsageError("--rank must be at least 1")
    table: LatencyPredictor
    try:
        table, sources = measured_here(
            device, backend, dense.dtype, threads, database, allow_extrapolation
        )
    except DeviceMissingError:
        if spec.name in shipped_devices():
            table, sources = measured_elsewhere(device, backend, dense.dtype)
        elif spec.name in imported_devices():
            table, sources = measured_by_others(device, dense.dtype)
        else:
            raise
    answers = []
    lines = []
    for rank in (None, *ranks):
        estimate = table.estimate(dataclasses.replace(dense, rank=rank))
        answers.append({"rank": rank, **dataclasses.asdict(estimate)})
        lines.append(
            f"{'dense' if rank is None else f'rank {rank}':10s} "
            f"{format_seconds(estimate.latency_s):>9s}  ({format_seconds(estimate.low_s)} to "
            f"{format_seconds(estimate.high_s)})  ratio {estimate.ratio:.3f}  {estimate.source}"
        )
    record = {"device": spec.name, "dtype": dense.dtype, "sources": sources, "estimates": answers}
    emit(output_format, record, [*lines, *(f"from {source}" for source in sources)])


def measured_here(
    device: str, backend: str, dtype: str, threads: int | None, database: Address, guess: bool
) -> tuple[LatencyPredictor, list[str]]:
    """The table of a device on this machine, and the fingerprint it is of."""
    from autotune.devices.detect import check_threads, require_device
    from autotune.devices.roofline import Roofline
    from autotune.predictor.table import LatencyTable
    from autotune.profiler.backends import require_backend
    from autotune.profiler.database import LatencyDatabase
    from autotune.profiler.profile import fingerprint_of

    present = require_device(device)
    runs_on = require_backend(backend, present.spec.kind)
    count = check_threads(threads)
    fingerprint = fingerprint_of(present, runs_on, dtype, count)
    with LatencyDatabase(database) as store:
        rows = store.measurements(fingerprint.id)
    roofline, cliff = Roofline.of(present.spec, count), present.spec.cliff(dtype)
    table = LatencyTable(rows, roofline, allow_extrapolation=guess, cliff=cliff)
    return table, [f"measurements of {fingerprint.id} in {database}"]


def measured_elsewhere(device: str, backend: str, dtype: str) -> tuple[LatencyPredictor, list[str]]:
    """The shipped table of a device: of `backend` where it was measured, else the largest."""
    from autotune.devices.roofline import Roofline
    from autotune.devices.specs import find_device
    from autotune.errors import UsageError
    from autotune.predictor.table import LatencyTable
    from autotune.profiler.shipped import shipped_tables

    spec = find_device(device)
    tables = shipped_tables(spec.name, dtype)
    if not tables:
        raise UsageError(f"the database of {spec.name} has no {dtype} points; give bf16 or fp16")
    chosen = next((table for table in tables if table[0].backend == backend), tables[0])
    fingerprint, rows = chosen
    table = LatencyTable(rows, Roofline.of(spec, 1), cliff=spec.cliff(dtype))
    versions = ", ".join(f"{name} {version}" for name, version in fingerprint.versions.items())
    return table, [
        f"this project's database of {fingerprint.device_name}: {fingerprint.backend}, {versions}"
    ]


def measured_by_others(device: str, dtype: str) -> tuple[LatencyPredictor, list[str]]:
    """The tables of a device elsewhere, and whose they are."""
    from autotune.devices.specs import find_device
    from autotune.predictor.imported import ImportedLatency
    from autotune.profiler.imported import read_tables

    spec = find_device(device)
    table = ImportedLatency(spec, read_tables(spec.name, dtype))
    return table, list(table.sources)
