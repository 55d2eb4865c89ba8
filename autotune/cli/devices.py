"""`autotune devices`."""

from __future__ import annotations

import dataclasses

import click

from autotune.cli.main import emit, format_option


@click.command("devices", epilog="Example: autotune devices --format json")
@format_option
def command(output_format: str) -> None:
    """List the devices that are known and those that are on this machine."""
    from autotune.devices.detect import cpu_threads, present_devices
    from autotune.devices.specs import known_devices

    here = {device.spec.name: device.reported_name for device in present_devices()}
    record = {
        "known": [dataclasses.asdict(spec) for spec in known_devices().values()],
        "here": here,
        "cpu_threads": cpu_threads(),
    }
    lines = []
    for spec in known_devices().values():
        mark = f"here: {here[spec.name]}" if spec.name in here else ""
        aliases = f" ({', '.join(spec.aliases)})" if spec.aliases else ""
        lines.append(f"{spec.name + aliases:34s} {spec.title:28s} {mark}".rstrip())
    emit(output_format, record, lines)
