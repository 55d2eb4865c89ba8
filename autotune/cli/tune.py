"""`autotune tune`, and bare `autotune`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from autotune.cli.main import format_option
from autotune.cli.options import token_option
from autotune.cli.schema import GroupedCommand, given, schema_options
from autotune.core.options_json import at, from_json, merged
from autotune.tuning.request import TuneRequest
from autotune.tuning.stored_request import read_request, request_json, without_effort

_JSON = click.Path(path_type=Path, dir_okay=False)


@click.command(
    "tune",
    cls=GroupedCommand,
    epilog="Example: autotune --device cpu --latency-budget 0.85x --output out",
)
@schema_options(TuneRequest)
@click.option(
    "--request",
    "request_file",
    type=_JSON,
    help="JSON file of a request, as --print-request writes it; options on the command line take "
    "precedence.",
)
@click.option("--print-request", is_flag=True, help="Print the request as JSON and do not run it.")
@token_option
@click.option("--quiet", is_flag=True, help="Hide progress output.")
@format_option
def command(**options: Any) -> int:
    """Tune a model: measure, choose ranks under the budget, factorize, export, verify.

    Exit code 0 if the budget is met, 1 if it is missed or the quality is lost, 3 if no plan can
    meet the budget, and 5 if the interval of the measurement contains the limit.
    """
    request = tune_request(options)
    request.check()
    if options["print_request"]:
        click.echo(json.dumps(request_json(request), indent=2))
        return 0
    from autotune.tuning.ownership import check_output

    check_output(request)
    from autotune.cli.reporting import make_reporter, print_result
    from autotune.tuning.opening import tune as run

    result = run(request, make_reporter(quiet=options["quiet"]))
    left = len(result.record.rounds) < request.search.rounds
    return print_result(result, options["output_format"], rounds_left=left)


def tune_request(options: Mapping[str, Any]) -> TuneRequest:
    """The request of the request file, with the options of the command line over it.

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
