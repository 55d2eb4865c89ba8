"""`autotune …`: bare, it tunes; subcommands measure, predict, and keep databases."""

from __future__ import annotations

import difflib
import importlib
import io
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from autotune import __version__
from autotune.core.crash import crash_sentence
from autotune.core.errors import (
    AutotuneError,
    ExitCode,
    UsageError,
    file_system_refusal,
    memory_refusal,
)
from autotune.core.progress.pipe import report_error
from autotune.core.text import guard_logs, printable

_COMMANDS = {
    "tune": ("autotune.cli.tune", "Tune a model under a budget (what bare `autotune` does)."),
    "devices": ("autotune.cli.devices", "List known devices and those on this machine."),
    "profile": ("autotune.cli.profile", "Measure layers into the latency database."),
    "predict": ("autotune.cli.predict", "Predict the latency of one layer."),
    "db": ("autotune.cli.db", "Inspect, move and check latency databases."),
    "doctor": (
        "autotune.cli.doctor",
        "Report hardware and what would disturb a measurement.",
    ),
    "bench": ("autotune.cli.bench", "Measure a finished result again."),
    "pick": ("autotune.cli.pick", "Hand out another plan that a tuning measured."),
    "verify": ("autotune.cli.verify", "Check a result: files, forms, parity, latency, quality."),
    "export": (
        "autotune.cli.export",
        "Export a checkpoint to ONNX or TensorRT and check it.",
    ),
    "farm": ("autotune.cli.farm", "Run the coordinator of a device farm."),
    "worker": ("autotune.cli.worker", "Join a device farm with this host's devices."),
    "serve": ("autotune.service.commands.serve", "Run the HTTP service and its web page."),
    "keys": ("autotune.service.commands.keys", "Create, list and revoke the service's API keys."),
    "submit": (
        "autotune.service.commands.submit",
        "Submit a command to a service.",
    ),
    "jobs": ("autotune.service.commands.jobs", "List a service's jobs, or show one."),
    "logs": ("autotune.service.commands.logs", "Print the log of a job."),
    "cancel": ("autotune.service.commands.cancel", "Cancel a job."),
    "delete": ("autotune.service.commands.delete", "Delete a job or an uploaded model."),
    "fetch": ("autotune.service.commands.fetch", "Download the results of a job."),
    "merge": ("autotune.cli.merge", "Write the dense equivalent of a tuned checkpoint."),
}
_JSON = "autotune.json"
INTERRUPTED = ExitCode.INTERRUPTED
# These keep what they finished, and do the rest when they are run again.
_CONTINUED = ("tune", "profile")


class LazyGroup(click.Group):
    """Imports a command when it is run or asked for help; options without a command mean `tune`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, none of which is imported for it."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command."""
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command for a name that is none."""
        near = [] if args[0] in _COMMANDS else difflib.get_close_matches(args[0], _COMMANDS, n=1)
        if near and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`autotune --latency-budget 0.85x` is `autotune tune --latency-budget 0.85x`."""
        own = {"--help", "-h", "--version"}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["tune", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands; and, as options without a command mean `tune`, its options."""
        found = super().shell_complete(ctx, incomplete)
        tune = self.get_command(ctx, "tune") if incomplete.startswith("-") else None
        return found if tune is None else [*found, *tune.shell_complete(ctx, incomplete)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of `tune` that most users need, as a bare `autotune` takes them; its own."""
        from autotune.cli.schema import COMMON, SchemaOption

        tune = self.get_command(ctx, "tune")
        params = tune.get_params(ctx) if tune else []
        common = [p for p in params if isinstance(p, SchemaOption) and p.entry.option.common]
        records = [record for each in common if (record := each.get_help_record(ctx))]
        with formatter.section(f"{COMMON} (`autotune tune --help` lists all)"):
            formatter.write_dl(records)
        super().format_options(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line each, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Example: autotune --device cpu --latency-budget 0.85x --output out

\b
Shell completion of commands, options and names:
  bash  eval "$(_AUTOTUNE_COMPLETE=bash_source autotune)"      in ~/.bashrc
  zsh   eval "$(_AUTOTUNE_COMPLETE=zsh_source autotune)"       in ~/.zshrc
  fish  _AUTOTUNE_COMPLETE=fish_source autotune | source       in config.fish
""",
)
@click.version_option(__version__, prog_name="autotune")
def cli() -> None:
    """Make a transformers model fit a latency budget on a given device.

    Without a command, `autotune --device cpu --latency-budget 0.85x …` tunes.
    """


def echo(text: object, *, err: bool = False, newline: bool = True) -> None:
    """Print text for a person; no control character of a name, log or error gets through."""
    click.echo(printable(text), err=err, nl=newline)


def emit(output_format: str, record: Mapping[str, Any], *, lines: Sequence[str]) -> None:
    """Print `lines` for a person, or the record as one JSON document on the last line."""
    if output_format == "json":
        click.echo(json.dumps(record, sort_keys=True, allow_nan=False))
    else:
        for line in lines:
            echo(line)


def format_option(command: Any) -> Any:
    """`--format text|json`, and `--json` as a short form of the second."""
    choose = click.option(
        "--format",
        "output_format",
        type=click.Choice(["text", "json"]),
        default="text",
        callback=lambda ctx, _, value: "json" if wants_json(ctx) else value,
        help="json: the last line of stdout is one JSON document; --json is short for it.",
    )
    return choose(json_flag(command))


def wants_json(ctx: click.Context) -> bool:
    """Whether `--json`, the alias of `--format json`, was given."""
    return bool(ctx.meta.get(_JSON))


def json_flag(command: Any) -> Any:
    """A hidden `--json`; `ctx.meta` carries it to the option that it is short for."""

    def note(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.meta[_JSON] = value

    return click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, hidden=True, callback=note
    )(command)


def main() -> None:
    """Run the command line; every error is one sentence and its exit code, also unexpected ones."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    guard_logs()
    try:
        code = _run()
    except KeyboardInterrupt:
        code = _failed("Interrupted", _interruption(), exit_code=INTERRUPTED)
    except SystemExit:
        raise
    except BaseException as error:  # a panic in a library written in Rust is no Exception
        code = _unexpected(error)
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> object:
    """What the command returns, or the exit code of an error that was foreseen."""
    try:
        return cli.main(prog_name="autotune", standalone_mode=False)
    except click.exceptions.Abort:
        return _failed("Interrupted", _interruption(), exit_code=INTERRUPTED)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        echo(shown.getvalue(), err=True, newline=False)
        report_error(type(error).__name__, error.format_message(), exit_code=error.exit_code)
        return error.exit_code
    except AutotuneError as error:
        return _refused(error)
    except BrokenPipeError:
        return 1


def _interruption() -> str:
    """What to say when this process's command is interrupted."""
    name = next(iter(sys.argv[1:]), "")
    continues = name in _CONTINUED or name.startswith("-")
    return "interrupted" + (
        "; what was finished is kept, the same command continues" if continues else ""
    )


def _refused(error: AutotuneError) -> int:
    """Show an error with options as flags; the program that started this one spells them itself."""
    from autotune.cli.job_options import SCHEMAS
    from autotune.core.option_names import spell

    echo(f"autotune: {spell(error, 'cli', *SCHEMAS)}", err=True)
    report_error(type(error).__name__, error.template, exit_code=error.exit_code)
    return error.exit_code


def _unexpected(error: BaseException) -> int:
    """An error that no part of the program turned into a sentence."""
    refusal: AutotuneError | None = memory_refusal(error)
    if refusal is None and isinstance(error, OSError):
        refusal = file_system_refusal(error)
    if refusal is not None:
        return _failed(type(refusal).__name__, str(refusal), exit_code=refusal.exit_code)
    return _failed(type(error).__name__, crash_sentence(error), exit_code=ExitCode.CRASHED)


def _failed(kind: str, message: str, *, exit_code: int) -> int:
    """Show an error, report it to the program that started this one, and return the exit code."""
    echo(f"autotune: {message}", err=True)
    report_error(kind, message, exit_code=exit_code)
    return exit_code


if __name__ == "__main__":
    main()
