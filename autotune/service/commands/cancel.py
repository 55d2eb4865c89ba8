"""`autotune cancel ID`: cancel a job."""

from __future__ import annotations

import click

from autotune.cli.main import emit, format_option
from autotune.service.commands.options import client_options, job_argument, make_client


@click.command("cancel", epilog="Example: autotune cancel 0199a1b2c3d4e5f60718")
@click.argument("job_id")
@click.option("--wait", is_flag=True, help="Wait until the job has ended.")
@client_options
@format_option
def command(*, job_id: str, wait: bool, server: str, key: str | None, output_format: str) -> None:
    """Cancel a job: immediately if it is queued, within seconds if it is running."""
    with make_client(server, key) as client:
        job_id = job_argument(client, job_id)
        job = client.cancel(job_id)
        if wait:
            job = client.wait(job_id)
    emit(output_format, job, lines=[f"{job['id']} {job['state']}"])
