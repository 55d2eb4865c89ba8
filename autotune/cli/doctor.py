"""`autotune doctor`."""

from __future__ import annotations

import dataclasses

import click

from autotune.cli.main import emit, format_option


@click.command("doctor", epilog="Example: autotune doctor")
@format_option
def command(output_format: str) -> int:
    """Say what is here, and what would disturb a measurement; exit code 1 when something would."""
    from autotune.devices.health import read_cpu, read_gpus
    from autotune.profiler.backends import BACKENDS, make_backend

    cpu, gpus = read_cpu(), read_gpus()
    lines = [
        f"processor   {cpu.name}: {cpu.threads} cores to use, load {cpu.load:.1f}"
        + (f", clock policy {cpu.governor}" if cpu.governor else "")
    ]
    for gpu in gpus:
        lines.append(
            f"gpu         {gpu.name}, driver {gpu.driver}: {gpu.sm_mhz} of {gpu.sm_max_mhz} MHz, "
            f"{gpu.temperature_c} °C, {gpu.power_w:.0f} W, {gpu.used_bytes / 1e9:.1f} GB used by "
            f"{gpu.processes} processes"
        )
    backends = {}
    for name in BACKENDS:
        backend = make_backend(name)
        lacks = backend.missing()
        backends[name] = {"versions": backend.versions(), "missing": lacks}
        told = ", ".join(f"{package} {v}" for package, v in backend.versions().items())
        lines.append(f"{name:17s} {lacks or told}")
    warnings = [*cpu.warnings, *(text for gpu in gpus for text in gpu.warnings)]
    lines += [f"warning: {text}" for text in warnings] or ["nothing would disturb a measurement"]
    record = {
        "cpu": dataclasses.asdict(cpu), "gpus": [dataclasses.asdict(gpu) for gpu in gpus],
        "backends": backends, "warnings": warnings,
    }  # fmt: skip
    emit(output_format, record, lines)
    return 1 if warnings else 0
