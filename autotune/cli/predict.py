"""`autotune predict`: predict the latency of a layer, of many, or of a model."""

from __future__ import annotations

from typing import Any, TextIO

import click

from autotune.cli.main import echo, emit, format_option
from autotune.cli.schema import schema_options, values
from autotune.core.errors import ExitCode, UsageError
from autotune.core.types import Estimate
from autotune.layers.network_options import (
    NetworkOptions,
    check_no_layer,
    check_no_model,
    only_of_models,
)
from autotune.layers.options import PredictOptions


@click.command(
    "predict", epilog="Example: autotune predict --tokens 128 --shape 384x1536 --rank 96"
)
@schema_options(PredictOptions, filled=True)
@schema_options(NetworkOptions, filled=True, leave_out=lambda each: not only_of_models(each.name))
@click.option(
    "--shapes",
    "rows",
    type=click.File(encoding="utf-8"),
    metavar="FILE|-",
    help="Many layers: CSV or JSON lines with tokens, in_features, out_features, rank and, if "
    "wanted, dtype and form; the answers come in the same format.",
)
@format_option
def command(output_format: str, *, rows: TextIO | None, **options: Any) -> int:
    """Predict a layer's latency, dense and in the given forms, with its interval and source.

    For a device that is not on this machine, predictions come from the database that ships with
    the package, or from third-party measurements.

    With --shapes, each row is written with dense_s, latency_s, low_s, high_s, ratio, ratio_low,
    ratio_high and source behind it. A row that cannot be answered has empty numbers, and the reason
    in source; the exit code is 2 if there is no other.

    With --model, the latency of the dense model, of its kinds of layers, and what uniform ranks and
    other precisions would make of it. Only its config.json is read.
    """
    asked_of: PredictOptions = values(PredictOptions, options)
    model: NetworkOptions = values(NetworkOptions, options)
    if model.model is not None:
        return _model(model, output_format, layer=asked_of, rows=rows)
    check_no_model(model)
    if rows is not None:
        return _many(rows, asked_of)
    _one(asked_of, output_format)
    return 0


def _model(
    model: NetworkOptions, output_format: str, *, layer: PredictOptions, rows: TextIO | None
) -> int:
    """Answer for a whole model."""
    from autotune.cli.predict_model import show
    from autotune.layers.network_prediction import predict_network

    check_no_layer(layer)
    if rows is not None:
        raise UsageError("--shapes has layers, and --model has its own: leave one of them out")
    show(predict_network(model), output_format)
    return 0


def _many(rows: TextIO, options: PredictOptions) -> int:
    """Answer a file of rows."""
    from autotune.layers.answers import no_answer
    from autotune.layers.rows import predict_rows, read_rows, write_rows

    if options.tokens or options.shape or options.ranks or options.forms:
        raise UsageError("--shapes has the layers: leave out --tokens, --shape, --rank and --form")
    try:
        text = rows.read()
    except UnicodeDecodeError as error:
        raise UsageError(f"--shapes: {rows.name} is no text in UTF-8: {error}") from error
    try:
        table = read_rows(text)
    except UsageError as error:
        raise UsageError(f"--shapes: {error}") from error
    answers = predict_rows(table, options)
    echo(write_rows(table, answers), newline=False)
    return ExitCode.UNUSABLE if no_answer(answers) else 0


def _one(asked_of: PredictOptions, output_format: str) -> None:
    """Answer for one layer in its forms."""
    from autotune.cli.predict_model import INTERVALS
    from autotune.core.quantities import format_seconds
    from autotune.layers.predict import predict_layers, spelled_refusals

    found = predict_layers(asked_of)
    where = f"{found.device}, {found.backend}, {found.dtype}"
    answers, lines = [], [f"{where}: {asked_of.tokens} tokens, {asked_of.shape}"]
    for one, estimate in zip(found.shapes, found.estimates, strict=True):
        form = one.form
        asked = {"rank": form.rank_or_none, "form": str(form)}
        answers.append({**asked, **estimate.to_json()})
        name_of = str(form) if form.suffix or form.is_dense else f"rank {form.rank}"
        lines.append(
            f"{name_of:10s} "
            f"{format_seconds(estimate.latency_s):>9s}  {_interval(estimate)}"
            f"ratio {estimate.ratio:.3f}{_ratio_interval(estimate)}  {estimate.source}"
        )
    refused = {str(form): str(error) for form, error in spelled_refusals(found, "cli").items()}
    lines += [f"refused: {reason}" for reason in refused.values()]
    record = {
        "device": found.device,
        "backend": found.backend,
        "dtype": found.dtype,
        "tokens": asked_of.tokens,
        "shape": asked_of.shape,
        "sources": list(found.sources),
        "estimates": answers,
        "interval": found.interval,
        "level": 0.9,
        "refused": refused,
    }
    lines += [INTERVALS[found.interval], *(f"from {source}" for source in found.sources)]
    emit(output_format, record, lines=lines)


def _ratio_interval(estimate: Estimate) -> str:
    """The interval behind a ratio; nothing where it has no width."""
    if estimate.ratio_low == estimate.ratio_high:
        return ""
    return f" ({estimate.ratio_low:.3f} to {estimate.ratio_high:.3f})"


def _interval(estimate: Estimate) -> str:
    """The interval with the space behind it; nothing where it has no width."""
    from autotune.core.quantities import format_seconds

    if estimate.low_s == estimate.high_s:
        return ""
    return f"({format_seconds(estimate.low_s)} to {format_seconds(estimate.high_s)})  "
