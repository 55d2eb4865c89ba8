"""`autotune predict`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import (
    backend_option,
    database_option,
    device_option,
    dtype_option,
    extrapolation_option,
    parse_shape,
    threads_option,
)
from autotune.types import Address

if TYPE_CHECKING:
    from autotune.predictor.base import LatencyPredictor
    from autotune.target import Target


@click.command(
    "predict", epilog="Example: autotune predict --tokens 128 --shape 384x1536 --rank 96"
)
@click.option("--tokens", type=int, required=True, help="Rows M.")
@click.option("--shape", required=True, help="IN_FEATURESxOUT_FEATURES.")
@click.option("--rank", "ranks", type=int, multiple=True, help="Ranks (default: dense only).")
@dtype_option
@device_option
@backend_option
@threads_option
@database_option
@extrapolation_option
@format_option
def command(
    tokens: int, shape: str, ranks: tuple[int, ...], dtype: str | None, device: str,
    backend: str | None, threads: int | None, database: Address, allow_extrapolation: bool,
    output_format: str,
) -> None:  # fmt: skip
    """Predict a layer's latency, dense and at the given ranks, with interval and source.

    A device that is not here is answered from the database that ships with the package, or from
    what others measured on it.
    """
    from autotune.errors import UsageError
    from autotune.target import find_target
    from autotune.units import format_seconds

    if any(rank < 1 for rank in ranks):
        raise UsageError("--rank must be at least 1")
    target = find_target(device, backend, dtype, database=database, extrapolate=allow_extrapolation)
    dense = dataclasses.replace(parse_shape(shape, tokens), dtype=target.dtype)
    table: LatencyPredictor
    if target.is_here:
        table, sources = measured_here(target, threads, database, allow_extrapolation)
    else:
        table, sources = target.table.predictor, list(target.table.sources)
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
    record = {
        "device": target.spec.name,
        "dtype": dense.dtype,
        "sources": sources,
        "estimates": answers,
    }
    emit(output_format, record, [*lines, *(f"from {source}" for source in sources)])


def measured_here(
    target: Target, threads: int | None, database: Address, guess: bool
) -> tuple[LatencyPredictor, list[str]]:
    """The table of a device on this machine, and the fingerprint it is of."""
    from autotune.devices.detect import check_threads
    from autotune.devices.roofline import Roofline
    from autotune.predictor.table import LatencyTable
    from autotune.profiler.database import LatencyDatabase
    from autotune.profiler.profile import fingerprint_of

    spec, count = target.spec, check_threads(threads)
    fingerprint = fingerprint_of(target.device, target.backend, target.dtype, count)
    with LatencyDatabase(database) as store:
        rows = store.measurements(fingerprint.id)
    roofline, cliff = Roofline.of(spec, count), spec.cliff(target.dtype)
    table = LatencyTable(rows, roofline, allow_extrapolation=guess, cliff=cliff)
    return table, [f"measurements of {fingerprint.id} in {database}"]
