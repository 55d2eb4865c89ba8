"""`autotune worker`: join a farm with this host's devices."""

from __future__ import annotations

from pathlib import Path

import click

from autotune.cli.farm import stay
from autotune.cli.main import echo, emit, format_option
from autotune.cli.options import token_option


@click.command("worker", epilog="Example: autotune worker --join 10.0.0.1:6380")
@click.option("--join", "address", required=True, help="IP:PORT of the farm's coordinator.")
@token_option
@format_option
def command(address: str, token_file: Path, *, output_format: str) -> int:
    """Join a farm with every device on this host; each device runs one measurement at a time.

    Gives up after 30 seconds if nothing listens at the address.
    """
    from autotune.farm.local import LocalExecutor
    from autotune.farm.processes import read_token, start_worker

    token = read_token(token_file)
    found = {d.name: d.reported_name for d in LocalExecutor().devices()}
    devices = ", ".join(f"{name} ({reported})" for name, reported in found.items())
    echo(f"joining {address} with {devices}", err=True)
    node = start_worker(address, token)
    emit(output_format, {"address": address, "devices": found}, lines=[])
    return stay(node)
