"""`autotune tune`, and bare `autotune`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import token_option
from autotune.cli.schema import GroupedCommand, given, schema_options
from autotune.core.options_json import at, from_json, merged
from autotune.core.types import Workload, from_mapping
from autotune.tune.request import TuneRequest, read_request, request_json, without_effort

_JSON = click.Path(path_type=Path, dir_okay=False)


@click.command(
    "tune", cls=GroupedCommand,
    epilog="Example: autotune --device cpu --latency-budget 0.85x --output out",
)  # fmt: skip
@schema_options(TuneRequest)
@click.option(
    "--request",
    "request_file",
    type=_JSON,
    help="JSON file of a request, as --print-request writes it; options given beside it win.",
)
@click.option("--print-request", is_flag=True, help="Print the request as JSON and do not run it.")
@token_option
@click.option("--quiet", is_flag=True, help="No progress.")
@format_option
def command(**options: Any) -> int:
    """Tune a model: measure, choose ranks under the budget, factorize, export, verify."""
    request = tune_request(options)
    request.check()
    if options["print_request"]:
        click.echo(json.dumps(request_json(request), indent=2))
        return 0
    from autotune.cli.reporting import make_reporter
    from autotune.tune.pipeline import run

    result = run(request, make_reporter(quiet=options["quiet"]))
    record = {**result.record, "output": str(result.folder)}
    emit(options["output_format"], record, summary(result.record, result.folder))
    if not result.within_budget:
        click.echo(f"autotune: {miss_text(result.record)}", err=True)
        return 1
    return 0


def tune_request(options: Mapping[str, Any]) -> TuneRequest:
    """What the options ask for: those of the request file, with those given beside it over them.

    Raises:
        UsageError: a value or a file that cannot be used.
    """
    values = given(TuneRequest, options)
    if options["request_file"] is not None:
        stored = read_request(options["request_file"])
        values = merged(without_effort(stored) if "effort" in values else stored, values)
    farm = at(values, "machine.farm")
    if farm and not options["print_request"]:
        from autotune.farm.processes import read_token

        values["machine"]["farm_token"] = read_token(options["token_file"])
    return from_json(TuneRequest, values)


def miss_text(record: Any) -> str:
    """The sentence that goes with exit code 1."""
    if record["measured_ratio"] is None:
        return (
            f"the model is predicted to miss the budget ({record['predicted_ratio']:.3f}x of "
            "dense); give a looser one"
        )
    if record["measured_ratio_low"] > 1.0:
        return (
            f"the result measured slower than dense ({record['measured_ratio']:.3f}x); "
            "use the dense model on this device"
        )
    return (
        f"the measured model misses the budget ({record['measured_ratio']:.3f}x of dense); "
        "its folder is written, give more --rounds or a looser budget"
    )


def summary(record: Any, folder: Path) -> list[str]:
    """What a person wants to know, in a few lines."""
    from autotune.core.quantities import format_bytes, format_count

    quality = record["quality"]
    chosen = sum(1 for site in record["sites"] if site["rank"] is not None)
    considered = sum(1 for site in record["sites"] if "group" in site)
    parameters, stored = record["parameters"], record["stored_bytes"]
    budget = ", ".join(f"{name} {text}" for name, text in record["budget"].items())
    return [
        f"{record['model']} on {record['device']['device_name']}, {record['backend']}, "
        f"{from_mapping(Workload, record['workload']).text}",
        f"budget      {budget}: {'met' if record['within_budget'] else 'MISSED'}",
        *_latency_lines(record),
        *_pass_lines(record["passes"]),
        f"quality     {quality['metric']} {quality['compressed']:.4f} (dense "
        f"{quality['dense']:.4f}); {quality['protocol']}",
        f"parameters  {format_count(parameters['compressed'])} of "
        f"{format_count(parameters['dense'])}, {format_bytes(stored['compressed'])} of "
        f"{format_bytes(stored['dense'])}; {chosen} of {considered} layers factorized",
        f"written     {folder}/: {', '.join(_written(folder))}",
    ]


def _latency_lines(record: Any) -> list[str]:
    """Measured here, or predicted and from what."""
    from autotune.core.quantities import format_seconds

    dense = format_seconds(record["dense_latency_s"])
    if record["measured_ratio"] is not None:
        return [
            f"latency     {format_seconds(record['measured_latency_s'])} against {dense} dense, "
            f"ratio {record['measured_ratio']:.3f} (95 %: {record['measured_ratio_low']:.3f} to "
            f"{record['measured_ratio_high']:.3f}), predicted {record['predicted_ratio']:.3f}"
        ]
    low, high = (format_seconds(record[f"predicted_latency_{end}_s"]) for end in ("low", "high"))
    return [
        f"latency     PREDICTED, the device is not here: "
        f"{format_seconds(record['predicted_latency_s'])} ({low} to {high}) against {dense} "
        f"dense, ratio {record['predicted_ratio']:.3f}",
        *(f"            from {source}" for source in record["predicted_from"]),
    ]


def _pass_lines(passes: Any) -> list[str]:
    """The passes of a request by themselves."""
    from autotune.core.quantities import format_seconds

    if len(passes) == 1:
        return []
    return [
        f"  {one['name']:8s}  {one['count']} x {format_seconds(one['latency_s'])} against "
        f"{format_seconds(one['dense_latency_s'])}, ratio {one['ratio']:.3f}, predicted "
        f"{one['predicted_ratio']:.3f}"
        for one in passes
    ]


def _written(folder: Path) -> list[str]:
    names = ("model", "model.onnx", "model_decode.onnx", "report.html", "result.json")
    found = [folder / name for name in names if (folder / name).exists()]
    return [f"{path.name}/" if path.is_dir() else path.name for path in found]
