"""`autotune predict`."""

from __future__ import annotations

import dataclasses

import click

from autotune.cli.forms import chosen_forms, form_option
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
from autotune.core.forms import DENSE
from autotune.core.types import Address


@click.command(
    "predict", epilog="Example: autotune predict --tokens 128 --shape 384x1536 --rank 96"
)
@click.option("--tokens", type=int, required=True, help="Rows M.")
@click.option("--shape", required=True, help="IN_FEATURESxOUT_FEATURES.")
@click.option("--rank", "ranks", type=int, multiple=True, help="Ranks (default: dense only).")
@form_option
@dtype_option
@device_option
@backend_option
@threads_option
@database_option
@extrapolation_option
@format_option
def command(
    tokens: int,
    shape: str,
    ranks: tuple[int, ...],
    forms: tuple[str, ...],
    dtype: str | None,
    device: str,
    backend: str | None,
    threads: int | None,
    database: Address,
    allow_extrapolation: bool,
    output_format: str,
) -> None:
    """Predict a layer's latency, dense and in the given forms, with interval and source.

    A device that is not here is answered from the database that ships with the package, or from
    what others measured on it.
    """
    from autotune.core.quantities import format_seconds
    from autotune.layers.predict import layer_predictor
    from autotune.tune.target import find_target

    wanted = [form for form in chosen_forms(ranks, forms) if form != DENSE]
    target = find_target(device, backend, dtype, database=database, extrapolate=allow_extrapolation)
    dense = dataclasses.replace(parse_shape(shape, tokens), dtype=target.dtype)
    table, sources = layer_predictor(target, threads, database, allow_extrapolation)
    answers = []
    lines = []
    for form in (DENSE, *wanted):
        estimate = table.estimate(dense.with_form(form))
        names = {"rank": form.rank or None, "form": str(form)}
        answers.append({**names, **dataclasses.asdict(estimate)})
        name = str(form) if form.suffix or form.is_dense else f"rank {form.rank}"
        lines.append(
            f"{name:10s} "
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
