"""`autotune submit tune|profile|export|verify|drift`: the same options, done by a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from autotune.cli.main import emit, format_option
from autotune.service.commands.follow import follow
from autotune.service.commands.options import client_options, make_client
from autotune.service.specs import KINDS, defaults


class Submissions(click.Group):
    """One command a kind, with the options of the command that does it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The kinds."""
        del ctx
        return list(KINDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Made of the kind's own options."""
        del ctx
        return _command(cmd_name) if cmd_name in KINDS else None


@click.group(
    "submit", cls=Submissions, epilog="Example: autotune submit tune --latency-budget 0.85x --wait"
)
def command() -> None:
    """Let a service do what a command does; its options are the command's own."""


def _command(name: str) -> click.Command:
    kind = KINDS[name]

    def submit(
        server: str, key: str | None, wait: bool, idempotency_key: str | None,
        output_format: str, **options: Any,
    ) -> int:  # fmt: skip
        spec = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
        with make_client(server, key) as client:
            job = client.submit(name, spec, idempotency_key=idempotency_key)
            click.echo(f"job {job['id']} at {server}", err=True)
            if wait:
                job = follow(client, job["id"])
        emit(output_format, job, [job["id"]])
        return 1 if job["state"] in ("failed", "cancelled") else 0

    found = click.Command(
        name, callback=submit, short_help=kind.command.get_short_help_str(80),
        help=f"Like `autotune {' '.join(kind.path)}`, done by a service. Prints the job's id.",
    )  # fmt: skip
    own: list[Callable[[Any], Any]] = [
        click.option("--wait", is_flag=True, help="Follow the job to its end."),
        click.option("--idempotency-key", help="The same key again is the same job."),
        format_option,
        client_options,
    ]
    if kind.of_a_run:
        own.insert(0, click.argument("run"))
    for option in own:
        found = option(found)
    known = defaults(name)
    found.params += [each for each in kind.command.params if each.name in known]
    return found
