"""`autotune devices [show NAME]`: list the known devices, or print a specification sheet."""

from __future__ import annotations

import dataclasses

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import DEVICE


@click.group("devices", invoke_without_command=True, epilog="Example: autotune devices show a100")
@format_option
@click.pass_context
def command(ctx: click.Context, output_format: str) -> None:
    """List the known devices: which are on this machine, and what the others are predicted from."""
    if ctx.invoked_subcommand is not None:
        return
    from autotune.devices.detect import cpu_threads, present_devices
    from autotune.devices.specs import known_devices
    from autotune.profiler.sources.aiconfigurator import imported_devices
    from autotune.profiler.sources.shipped import shipped_devices

    tables = dict.fromkeys(imported_devices(), "third-party measurements")
    tables |= dict.fromkeys(shipped_devices(), "this project's database")
    here = {device.spec.name: device.reported_name for device in present_devices()}
    record = {
        "known": [dataclasses.asdict(spec) for spec in known_devices().values()],
        "here": here,
        "predicted_from": tables,
        "cpu_threads": cpu_threads(),
    }
    lines = []
    for spec in known_devices().values():
        known = f"predicted from {tables[spec.name]}" if spec.name in tables else ""
        mark = f"here: {here[spec.name]}" if spec.name in here else known
        aliases = f" ({', '.join(spec.aliases)})" if spec.aliases else ""
        lines.append(f"{spec.name + aliases:38s} {spec.title:42s} {mark}".rstrip())
    emit(output_format, record, lines)


@command.command("show", epilog="Example: autotune devices show h200")
@click.argument("name", type=DEVICE)
@format_option
def show(name: str, output_format: str) -> None:
    """Print a device's specification sheet with the source of each number."""
    from autotune.devices.specs import device_file, find_device

    emit(output_format, dataclasses.asdict(find_device(name)), device_file(name).splitlines())
