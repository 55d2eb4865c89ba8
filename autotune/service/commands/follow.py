"""Print a job's events as they happen."""

from __future__ import annotations

from typing import Any

import click

from autotune.service.client import Client


def follow(client: Client, job_id: str) -> dict[str, Any]:
    """Print the job's stages to stderr until it has ended; returns the ended job."""
    for event in client.events(job_id):
        if event["event"] in ("stage", "note", "state"):
            click.echo(f"{event['event']:6s} {event['data']['text']}", err=True)
    job = client.job(job_id)
    if job["error"]:
        click.echo(f"autotune: {job['error']}", err=True)
    return job
