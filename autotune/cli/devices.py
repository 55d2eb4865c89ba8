"""`autotune devices [show NAME]`: list the known devices, or print a specification sheet."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import DEVICE

if TYPE_CHECKING:
    from autotune.profiler.sources.known import KnownDevice


@click.group("devices", invoke_without_command=True, epilog="Example: autotune devices show a100")
@format_option
@click.pass_context
def command(ctx: click.Context, output_format: str) -> None:
    """List the known devices: which are on this machine, and what the others are predicted from."""
    if ctx.invoked_subcommand is not None:
        return
    from autotune.devices.detect import cpu_threads
    from autotune.profiler.sources.known import list_devices

    found = list_devices()
    record = {
        "known": [dataclasses.asdict(known.spec) for known in found],
        "here": {known.spec.name: known.here for known in found if known.here},
        "predicted_from": {k.spec.name: k.predicted_from for k in found if k.predicted_from},
        "cpu_threads": cpu_threads(),
    }
    lines = []
    for known in found:
        spec = known.spec
        aliases = f" ({', '.join(spec.aliases)})" if spec.aliases else ""
        lines.append(f"{spec.name + aliases:38s} {spec.title:42s} {_use(known)}".rstrip())
    emit(output_format, record, lines=lines)


def _use(known: KnownDevice) -> str:
    """Where latencies of a device come from."""
    if known.here:
        return f"here: {known.here}"
    if known.predicted_from:
        return f"predicted from {known.predicted_from}"
    return "only with --allow-extrapolation" if known.spec.kind == "cuda" else ""


@command.command("show", epilog="Example: autotune devices show h200")
@click.argument("name", type=DEVICE)
@format_option
def show(name: str, output_format: str) -> None:
    """Print a device's specification sheet with the source of each number."""
    from autotune.devices.specs import device_file, find_device

    emit(output_format, dataclasses.asdict(find_device(name)), lines=device_file(name).splitlines())
