"""`autotune doctor`: report the hardware and what would disturb a measurement."""

from __future__ import annotations

import dataclasses

import click

from autotune.cli.main import emit, format_option


@click.command("doctor", epilog="Example: autotune doctor")
@format_option
def command(output_format: str) -> int:
    """Report this machine's hardware and anything that would disturb a measurement.

    The exit code is 1 if there is a warning.
    """
    from autotune.devices.health import read_cpu, read_gpus
    from autotune.profiler.backends import BACKENDS, make_backend

    cpu, gpus = read_cpu(), read_gpus()
    lines = [
        f"{'processor':17s} {cpu.name}: {cpu.threads} cores available, load {cpu.load:.1f}"
        + (f", frequency governor {cpu.governor}" if cpu.governor else "")
    ]
    for gpu in gpus:
        lines.append(
            f"{'gpu':17s} {gpu.name}, driver {gpu.driver}: {gpu.sm_mhz} of {gpu.sm_max_mhz} MHz, "
            f"{gpu.temperature_c} °C, {gpu.power_w:.0f} W, {gpu.used_bytes / 1e9:.1f} GB in use, "
            f"{gpu.processes} processes"
        )
    backends = {}
    for name in BACKENDS:
        backend = make_backend(name)
        missing = backend.missing()
        versions = backend.versions()
        backends[name] = {"versions": versions, "missing": missing}
        installed = ", ".join(f"{package} {version}" for package, version in versions.items())
        lines.append(f"{name:17s} {missing or installed}")
    warnings = [*cpu.warnings, *(text for gpu in gpus for text in gpu.warnings)]
    lines += [f"warning: {text}" for text in warnings] or [
        "no warnings: nothing would disturb a measurement"
    ]
    record = {
        "cpu": dataclasses.asdict(cpu),
        "gpus": [dataclasses.asdict(gpu) for gpu in gpus],
        "backends": backends,
        "warnings": warnings,
    }
    emit(output_format, record, lines=lines)
    return 1 if warnings else 0
