"""Print a job's events as they happen."""

from __future__ import annotations

from typing import Any

from autotune.cli.main import echo
from autotune.core.text import one_line
from autotune.service.client import Client


def follow(client: Client, job_id: str) -> dict[str, Any]:
    """Print the job's stages to stderr until it has ended; returns the ended job."""
    for event in client.events(job_id):
        if event["event"] in ("stage", "note", "state"):
            echo(f"{event['event']:6s} {one_line(event['data']['text'])}", err=True)
    job = client.job(job_id)
    if job["error"]:
        echo(f"autotune: {job['error']}", err=True)
    return job
