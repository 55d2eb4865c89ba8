"""`autotune predict`: predict the latency of a layer."""

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
@click.option("--tokens", type=int, required=True, help="Rows of the input, M.")
@click.option("--shape", required=True, help="Layer, as IN_FEATURESxOUT_FEATURES.")
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
    *,
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
    """Predict a layer's latency, dense and in the given forms, with its interval and source.

    For a device that is not on this machine, predictions come from the database that ships with
    the package, or from third-party measurements.
    """
    from autotune.core.quantities import format_seconds
    from autotune.layers.predict import KnownLayers
    from autotune.tuning.machines import nearest_machine
    from autotune.tuning.options import MachineOptions

    wanted = [form for form in chosen_forms(ranks, forms) if form != DENSE]
    options = MachineOptions(
        device=device,
        backend=backend,
        dtype=dtype,
        threads=threads,
        database=database,
        allow_extrapolation=allow_extrapolation,
    )
    dense = parse_shape(shape, tokens)
    shapes = [dense.with_form(form) for form in (DENSE, *wanted)]
    with nearest_machine(options) as machine:
        found = KnownLayers(machine, allow_extrapolation=allow_extrapolation).predict(shapes)
        name, dtype = machine.spec.name, machine.dtype
    answers, lines = [], []
    for one, estimate in zip(found.shapes, found.estimates, strict=True):
        form = one.form
        names = {"rank": form.rank or None, "form": str(form)}
        answers.append({**names, **dataclasses.asdict(estimate)})
        name_of = str(form) if form.suffix or form.is_dense else f"rank {form.rank}"
        lines.append(
            f"{name_of:10s} "
            f"{format_seconds(estimate.latency_s):>9s}  ({format_seconds(estimate.low_s)} to "
            f"{format_seconds(estimate.high_s)})  ratio {estimate.ratio:.3f}  {estimate.source}"
        )
    sources = list(found.sources)
    record = {"device": name, "dtype": dtype, "sources": sources, "estimates": answers}
    emit(output_format, record, [*lines, *(f"from {source}" for source in sources)])
