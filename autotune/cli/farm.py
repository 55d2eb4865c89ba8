"""`autotune farm`: the head that workers join."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import token_option

if TYPE_CHECKING:
    import subprocess


@click.command("farm", epilog="Example: autotune farm --address 10.0.0.1:6380")
@click.option("--address", required=True, help="Private IP:PORT of this host to listen on.")
@token_option
@format_option
def command(address: str, token_file: Path, output_format: str) -> int:
    """Be the head of a farm, which workers join and `autotune profile --farm` measures on."""
    from autotune.farm.processes import make_token, start_head

    token = make_token(token_file)
    click.echo(f"farm at {address}; its token is in {token_file}", err=True)
    emit(output_format, {"address": address, "token_file": str(token_file)}, [])
    return stay(start_head(address, token))


def stay(process: subprocess.Popen[bytes]) -> int:
    """Until the process ends or this one is told to; then it ends too."""
    try:
        return process.wait()
    finally:
        process.terminate()
        process.wait()
