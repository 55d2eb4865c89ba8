"""`autotune submit tune|profile|export|verify|drift`: the same options, done by a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from autotune.cli.job_options import ExportOptions
from autotune.cli.main import echo, emit, format_option
from autotune.cli.options import file_format_option, split_formats
from autotune.cli.schema import GroupedCommand, given, schema_options
from autotune.service.client import Client
from autotune.service.commands.follow import follow
from autotune.service.commands.options import client_options, make_client
from autotune.service.errors import NotFoundError
from autotune.service.job_schema import CANCELLED, FAILED, SUCCEEDED
from autotune.service.specs import KINDS, Kind


class Submissions(click.Group):
    """One command a kind, with the options of the command that does it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the kinds of jobs."""
        del ctx
        return list(KINDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Made of the kind's own options."""
        del ctx
        return _command(KINDS[cmd_name]) if cmd_name in KINDS else None


_OF_A_RUN = "\n\nJOB: id of a finished tuning or export; last: the newest."


@click.group(
    "submit", cls=Submissions, epilog="Example: autotune submit tune --latency-budget 0.85x --wait"
)
def command() -> None:
    """Submit a command to a service; options are the same."""


def _command(kind: Kind) -> click.Command:
    exports = kind.schema is ExportOptions

    def submit(
        *,
        server: str,
        key: str | None,
        wait: bool,
        idempotency_key: str | None,
        output_format: str = "text",
        run: str | None = None,
        formats: tuple[str, ...] = (),
        **options: Any,
    ) -> int:
        if exports:
            options["form"], output_format = split_formats(formats)
        spec = given(kind.schema, options)
        with make_client(server, key) as client:
            if run is not None:
                spec["run"] = last_run(client) if run == "last" else run
            job = client.submit(kind.name, spec, idempotency_key=idempotency_key)
            echo(f"job {job['id']} at {server}", err=True)
            if wait:
                job = follow(client, job["id"])
        emit(output_format, job, lines=[job["id"]])
        return 1 if job["state"] in (FAILED, CANCELLED) else 0

    text = f"Like `autotune {' '.join(kind.path)}`, done by a service. Prints the job's id."
    found = GroupedCommand(
        kind.name,
        callback=submit,
        short_help=kind.summary,
        help=text + _OF_A_RUN if kind.of_a_run else text,
    )
    own: list[Callable[[Any], Any]] = [
        click.option("--wait", is_flag=True, help="Follow the job to its end."),
        click.option(
            "--idempotency-key", help="Submitting again with the same key returns the existing job."
        ),
        file_format_option if exports else format_option,
        client_options,
        schema_options(
            kind.schema, leave_out=lambda e: e not in kind.options or e.option.flag == "--format"
        ),
    ]
    if kind.of_a_run:
        own.insert(0, click.argument("run", metavar="JOB|last"))
    for option in own:
        found = option(found)
    return found


def last_run(client: Client) -> str:
    """The id of the newest job that succeeded and made a folder.

    Raises:
        NotFoundError: there is none.
    """
    for job in client.jobs(limit=100, state=[SUCCEEDED])["jobs"]:
        if KINDS[job["kind"]].writes:
            return str(job["id"])
    raise NotFoundError(
        f"{client.server} has no tuning or export that succeeded among its last 100 such jobs"
    )
