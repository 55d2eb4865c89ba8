"""The command `autotune profile`: time layers and store them in the latency database."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import token_option
from autotune.cli.schema import schema_options, values
from autotune.layers.options import ProfileOptions


@click.command(
    "profile", epilog="Example: autotune profile --tokens 128 --shape 384x1536 --rank 96"
)
@schema_options(ProfileOptions, filled=True)
@token_option
@format_option
def command(output_format: str, token_file: Path, **options: Any) -> int:
    """Measure dense and low-rank layers and store the results in the database."""
    chosen: ProfileOptions = values(ProfileOptions, options)
    chosen.check()  # before anything is imported for it

    from autotune.cli.reporting import make_reporter
    from autotune.layers.profiling import profile_layers

    token = None
    if chosen.farm:
        from autotune.farm.processes import read_token

        token = read_token(token_file)
    found = profile_layers(chosen, make_reporter(), farm_token=token)
    known = found.wanted - found.measured - len(found.failed)
    lines = [
        f"{found.measured} measured, {known} already known, {len(found.failed)} failed; "
        f"fingerprint {found.fingerprint} in {found.database}",
        f"{found.settled} of {found.wanted} timings settled",
    ]
    record = {**dataclasses.asdict(found), "database": str(found.database)}
    emit(output_format, record, lines=[*lines, *found.failed[:5]])
    return 1 if found.failed else 0
