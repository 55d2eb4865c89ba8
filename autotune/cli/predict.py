"""`autotune predict`: predict the latency of a layer."""

from __future__ import annotations

from typing import Any

import click

from autotune.cli.main import emit, format_option
from autotune.cli.schema import schema_options, values
from autotune.core.types import Estimate
from autotune.layers.options import PredictOptions


@click.command(
    "predict", epilog="Example: autotune predict --tokens 128 --shape 384x1536 --rank 96"
)
@schema_options(PredictOptions, filled=True)
@format_option
def command(output_format: str, **options: Any) -> None:
    """Predict a layer's latency, dense and in the given forms, with its interval and source.

    For a device that is not on this machine, predictions come from the database that ships with
    the package, or from third-party measurements.
    """
    from autotune.core.quantities import format_seconds
    from autotune.layers.predict import predict_layers, spelled_refusals

    asked_of: PredictOptions = values(PredictOptions, options)
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
        "refused": refused,
    }
    emit(output_format, record, lines=[*lines, *(f"from {source}" for source in found.sources)])


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
