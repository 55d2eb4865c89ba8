"""`autotune jobs [ID]`: list jobs, or show one."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from autotune.cli.main import emit, format_option
from autotune.core.text import one_line
from autotune.service.commands.options import client_options, job_argument, make_client
from autotune.service.job_schema import RUNNING, STATES
from autotune.service.summary import outcome


@click.command("jobs", epilog="Example: autotune jobs --state running")
@click.argument("job_id", required=False)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only jobs in this state (repeatable).",
)
@click.option(
    "--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="Jobs to list."
)
@client_options
@format_option
def command(
    *,
    job_id: str | None,
    states: tuple[str, ...],
    limit: int,
    server: str,
    key: str | None,
    output_format: str,
) -> None:
    """List a service's jobs, newest first, or show one job."""
    with make_client(server, key) as client:
        if job_id:
            job = client.job(job_argument(client, job_id))
            emit(output_format, job, lines=_whole(job))
            return
        page = client.jobs(limit=limit, **({"state": list(states)} if states else {}))
    counts = ", ".join(f"{count} {state}" for state, count in page["counts"].items() if count)
    lines = [_line(job) for job in page["jobs"]]
    emit(output_format, page, lines=[*lines, counts or "no jobs yet"])


def _line(job: dict[str, Any]) -> str:
    when = datetime.datetime.fromtimestamp(job["created_at"], datetime.UTC)
    far = f"{job['stage']} {job['done']}/{job['total']}" if job["state"] == RUNNING else ""
    said = far or job["error"] or outcome(job["result"])
    line = f"{job['id']}  {when:%m-%d %H:%M}  {job['kind']:8s}{job['state']:10s} {said}"
    return one_line(line)[:150]


def _whole(job: dict[str, Any]) -> list[str]:
    shown = [(k, v) for k, v in _flattened(job["spec"]) if v not in (None, []) and v is not False]
    return [_line(job), *(f"  {name}: {json.dumps(value)}" for name, value in shown)]


def _flattened(spec: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a spec by path."""
    for key, value in spec.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
