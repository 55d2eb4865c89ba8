"""`autotune predict`."""

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
    from autotune.core.errors import UsageError
    from autotune.core.quantities import format_seconds
    from autotune.layers.predict import KnownLayers
    from autotune.tune.machines import nearest_machine
    from autotune.tune.request import MachineOptions

    if any(rank < 1 for rank in ranks):
        raise UsageError("--rank must be at least 1")
    options = MachineOptions(
        device=device, backend=backend, dtype=dtype, threads=threads, database=database,
        allow_extrapolation=allow_extrapolation,
    )  # fmt: skip
    dense = parse_shape(shape, tokens)
    shapes = [dataclasses.replace(dense, rank=rank) for rank in (None, *ranks)]
    with nearest_machine(options) as machine:
        found = KnownLayers(machine, allow_extrapolation=allow_extrapolation).predict(shapes)
        name, dtype = machine.spec.name, machine.dtype
    answers, lines = [], []
    for one, estimate in zip(found.shapes, found.estimates, strict=True):
        answers.append({"rank": one.rank, **dataclasses.asdict(estimate)})
        lines.append(
            f"{'dense' if one.rank is None else f'rank {one.rank}':10s} "
            f"{format_seconds(estimate.latency_s):>9s}  ({format_seconds(estimate.low_s)} to "
            f"{format_seconds(estimate.high_s)})  ratio {estimate.ratio:.3f}  {estimate.source}"
        )
    sources = list(found.sources)
    record = {"device": name, "dtype": dtype, "sources": sources, "estimates": answers}
    emit(output_format, record, [*lines, *(f"from {source}" for source in sources)])
