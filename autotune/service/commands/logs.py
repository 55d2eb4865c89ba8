"""`autotune logs ID`: print a job's log."""

from __future__ import annotations

import time

import click

from autotune.cli.main import echo, emit, format_option
from autotune.service.commands.options import client_options, job_argument, make_client

_EVERY_S = 0.5


@click.command("logs", epilog="Example: autotune logs 0199a1b2c3d4e5f60718 --follow")
@click.argument("job_id")
@click.option("--follow", "-f", is_flag=True, help="Keep printing until the job has ended.")
@client_options
@format_option
def command(*, job_id: str, follow: bool, server: str, key: str | None, output_format: str) -> None:
    """Print the log of a job."""
    offset, found = 0, []
    with make_client(server, key) as client:
        job_id = job_argument(client, job_id)
        while True:
            part = client.logs(job_id, offset)
            found.append(part["text"])
            if output_format == "text":
                echo(part["text"], newline=False)
            if part["next_offset"] == offset:
                if not follow or part["ended"]:
                    break
                time.sleep(_EVERY_S)
            offset = part["next_offset"]
    if output_format == "json":
        emit(
            output_format, {"id": job_id, "text": "".join(found), "ended": part["ended"]}, lines=[]
        )
