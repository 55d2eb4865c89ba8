"""`autotune farm`: the coordinator that workers join."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.main import echo, emit, format_option
from autotune.cli.options import token_option

if TYPE_CHECKING:
    from autotune.farm.processes import RayNode


@click.command("farm", epilog="Example: autotune farm --address 10.0.0.1:6380")
@click.option("--address", required=True, help="Private IP:PORT to listen on.")
@token_option
@format_option
def command(address: str, token_file: Path, *, output_format: str) -> int:
    """Run the coordinator of a device farm.

    Workers join it with `autotune worker`; commands use it with `--farm`. The farm token is created
    in --token-file if there is none.
    """
    from autotune.farm.processes import make_token, start_coordinator

    node = start_coordinator(address, make_token(token_file))
    echo(f"coordinator listening on {address}; farm token in {token_file}", err=True)
    emit(output_format, {"address": address, "token_file": str(token_file)}, lines=[])
    return stay(node)


def stay(node: RayNode) -> int:
    """Wait for a node of the farm to end, and end it when this process is interrupted."""
    try:
        return node.wait()
    finally:
        node.stop()
