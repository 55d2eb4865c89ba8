"""`autotune …`: bare, it tunes; subcommands measure, predict, and keep databases."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from autotune import __version__
from autotune.core.errors import AutotuneError, UsageError

_COMMANDS = {
    "tune": ("autotune.cli.tune", "Tune a model under a budget (what bare `autotune` does)."),
    "devices": ("autotune.cli.devices", "List the devices that are known and that are here."),
    "profile": ("autotune.cli.profile", "Measure layers and fill the latency database."),
    "predict": ("autotune.cli.predict", "Predict the latency of one layer."),
    "db": ("autotune.cli.db", "Look into, move and check latency databases."),
    "doctor": ("autotune.cli.doctor", "Say what here would disturb a measurement."),
    "bench": ("autotune.cli.bench", "Measure a finished result again."),
    "verify": ("autotune.cli.verify", "Check a result: files, ranks, parity, latency, quality."),
    "export": ("autotune.cli.export", "Export a checkpoint to ONNX or TensorRT, compared with it."),
    "farm": ("autotune.cli.farm", "Be the head of a farm of devices."),
    "worker": ("autotune.cli.worker", "Join a farm with this host's devices."),
    "serve": ("autotune.service.commands.serve", "Serve jobs over HTTP, with a page."),
    "keys": ("autotune.service.commands.keys", "Make, list and revoke the service's API keys."),
    "submit": ("autotune.service.commands.submit", "Let a service tune, profile, export, verify."),
    "jobs": ("autotune.service.commands.jobs", "List a service's jobs, or show one."),
    "logs": ("autotune.service.commands.logs", "Print what a job's process said."),
    "cancel": ("autotune.service.commands.cancel", "End a job."),
    "fetch": ("autotune.service.commands.fetch", "Copy what a job handed out."),
    "merge": ("autotune.cli.merge", "Write the dense equivalent of a tuned checkpoint."),
}
INTERRUPTED = 130


class LazyGroup(click.Group):
    """Imports a command when it is run or asked for help; options without a command mean `tune`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The known names."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = importlib.import_module(_COMMANDS[cmd_name][0])
        except ModuleNotFoundError as error:
            if (error.name or "autotune").partition(".")[0] == "autotune":
                raise
            raise UsageError(
                f"`autotune {cmd_name}` needs {error.name}: pip install 'lowrank-autotune[service]'"
            ) from error
        command: click.Command = module.command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`autotune --latency-budget 0.85x` is `autotune tune --latency-budget 0.85x`."""
        own = {"--help", "-h", "--version"}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["tune", *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line each, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: autotune --device cpu --latency-budget 0.85x --output out",
)
@click.version_option(__version__, prog_name="autotune")
def cli() -> None:
    """Make a transformers model fit a latency budget on a given device.

    Without a command, `autotune --device cpu --latency-budget 0.85x …` tunes; see
    `autotune tune --help` for its options.
    """


def emit(output_format: str, record: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Print `lines` for a person, or the record as one JSON document on the last line."""
    if output_format == "json":
        click.echo(json.dumps(record, sort_keys=True, allow_nan=False))
    else:
        for line in lines:
            click.echo(line)


format_option = click.option(
    "--format", "output_format", type=click.Choice(["text", "json"]), default="text",
    help="json: the last line of stdout is one JSON document.",
)  # fmt: skip


def main() -> None:
    """Run the command line; every expected error is one sentence and its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = _interrupted()
    except KeyboardInterrupt:
        code = _interrupted()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except AutotuneError as error:
        click.echo(f"autotune: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> int:
    click.echo(
        "autotune: interrupted; what was finished is kept, the same command continues", err=True
    )
    return INTERRUPTED


if __name__ == "__main__":
    main()
