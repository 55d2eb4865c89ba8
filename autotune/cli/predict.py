"""`autotune predict`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import (
    backend_option,
    database_option,
    device_option,
    parse_shape,
    threads_option,
)


@click.command(
    "predict", epilog="Example: autotune predict --tokens 128 --shape 384x1536 --rank 96"
)
@click.option("--tokens", type=int, required=True, help="Rows M.")
@click.option("--shape", required=True, help="IN_FEATURESxOUT_FEATURES.")
@click.option("--rank", "ranks", type=int, multiple=True, help="Ranks (default: dense only).")
@click.option("--allow-extrapolation", is_flag=True, help="A roofline guess where nothing is near.")
@device_option
@backend_option
@threads_option
@database_option
@format_option
def command(
    tokens: int, shape: str, ranks: tuple[int, ...], allow_extrapolation: bool, device: str,
    backend: str, threads: int | None, database: Path, output_format: str,
) -> None:  # fmt: skip
    """Predict a layer's latency, dense and at the given ranks, with interval and source."""
    from autotune.devices.detect import check_threads, require_device
    from autotune.errors import UsageError
    from autotune.predictor.roofline import Roofline
    from autotune.predictor.table import LatencyTable
    from autotune.profiler.backends import require_backend
    from autotune.profiler.database import LatencyDatabase
    from autotune.profiler.profile import fingerprint_of
    from autotune.units import format_seconds

    dense = parse_shape(shape, tokens)
    if any(rank < 1 for rank in ranks):
        raise UsageError("--rank must be at least 1")
    present = require_device(device)
    runs_on = require_backend(backend, present.spec.kind)
    count = check_threads(threads)
    fingerprint = fingerprint_of(present, runs_on, "fp32", count)
    with LatencyDatabase(database) as store:
        rows = store.measurements(fingerprint.id)
    table = LatencyTable(
        rows, Roofline.of(present.spec, count), allow_extrapolation=allow_extrapolation
    )
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
    emit(output_format, {"fingerprint": fingerprint.id, "estimates": answers}, lines)
