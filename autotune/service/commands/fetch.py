"""`autotune fetch ID`: download a job's results."""

from __future__ import annotations

from pathlib import Path

import click

from autotune.cli.main import emit, format_option
from autotune.service.commands.options import client_options, job_argument, make_client


@click.command("fetch", epilog="Example: autotune fetch 0199a1b2c3d4e5f60718 -o out")
@click.argument("job_id")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Folder to write to (default: the job's id).",
)
@client_options
@format_option
def command(
    *, job_id: str, output: Path | None, server: str, key: str | None, output_format: str
) -> None:
    """Download a job's results: checkpoint, graphs, report and result.json."""
    with make_client(server, key) as client:
        job_id = job_argument(client, job_id)
        target = output or Path(job_id)
        found = client.fetch(job_id, target)
    record = {"output": str(target), "files": [str(path) for path in found]}
    emit(output_format, record, lines=[f"{len(found)} files written to {target}/"])
