"""`autotune predict`: predict the latency of a layer."""

from __future__ import annotations

import dataclasses

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
from autotune.core.types import Address


@click.command(
    "predict", epilog="Example: autotune predict --tokens 128 --shape 384x1536 --rank 96"
)
@click.option("--tokens", type=int, required=True, help="Rows of the input, M.")
@click.option("--shape", required=True, help="Layer, as IN_FEATURESxOUT_FEATURES.")
@click.option(
    "--rank", "ranks", type=int, multiple=True, help="Rank (repeatable; default: dense only)."
)
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
    """Predict a layer's latency, dense and at the given ranks, with its interval and source.

    For a device that is not on this machine, predictions come from the database that ships with
    the package, or from third-party measurements.
    """
    from autotune.core.errors import UsageError
    from autotune.core.quantities import format_seconds
    from autotune.layers.predict import layer_predictor
    from autotune.tune.target import find_target

    if any(rank < 1 for rank in ranks):
        raise UsageError("--rank must be at least 1")
    target = find_target(device, backend, dtype, database=database, extrapolate=allow_extrapolation)
    dense = dataclasses.replace(parse_shape(shape, tokens), dtype=target.dtype)
    table, sources = layer_predictor(target, threads, database, allow_extrapolation)
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
