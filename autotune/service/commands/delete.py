"""`autotune delete ID`: delete a job or an uploaded model."""

from __future__ import annotations

import click

from autotune.cli.main import emit, format_option
from autotune.service.commands.options import client_options, job_argument, make_client

_UPLOAD = "upload:"


@click.command("delete", epilog="Example: autotune delete 0199a1b2c3d4e5f60718")
@click.argument("name", metavar="ID|upload:NAME")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@client_options
@format_option
def command(*, name: str, yes: bool, server: str, key: str | None, output_format: str) -> None:
    """Delete a job that has ended, with its log and results, or an uploaded model."""
    with make_client(server, key) as client:
        upload = name.startswith(_UPLOAD)
        name = name if upload else job_argument(client, name)
        what = name if upload else f"job {name} with its log and results"
        if not yes:
            click.confirm(
                f"Delete {what} at {server}? This cannot be undone.", abort=True, err=True
            )
        if upload:
            client.delete_upload(name.removeprefix(_UPLOAD))
        else:
            client.delete(name)
    emit(output_format, {"deleted": name}, lines=[f"deleted {what}"])
