"""`autotune doctor`: report the hardware and what would disturb a measurement."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from autotune.cli.main import emit, format_option
from autotune.core.errors import AutotuneError
from autotune.core.paths import default_database
from autotune.core.types import Address


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
    latencies = _latencies(default_database())
    lines += [f"{'latency database':17s} {latencies['text']}"] if latencies else []
    warnings = [*cpu.warnings, *(text for gpu in gpus for text in gpu.warnings)]
    lines += [f"warning: {text}" for text in warnings] or [
        "no warnings: nothing would disturb a measurement"
    ]
    record = {
        "cpu": dataclasses.asdict(cpu),
        "gpus": [dataclasses.asdict(gpu) for gpu in gpus],
        "backends": backends,
        "latencies": latencies,
        "warnings": warnings,
    }
    emit(output_format, record, lines=lines)
    return 1 if warnings else 0


def _latencies(database: Address) -> dict[str, Any] | None:
    """How many layer timings settled in the user's database; None where there is none yet."""
    from autotune.profiler.database.latency import LatencyDatabase
    from autotune.profiler.measure.settling import Settled

    if isinstance(database, Path) and not database.exists():
        return None
    try:
        with LatencyDatabase(database) as store:
            rows = [row for key in store.fingerprints() for row in store.measurements(key)]
    except AutotuneError as error:
        return {"database": str(database), "text": str(error)}
    found = Settled.of(rows)
    text = f"{found.settled} of {found.total} layer timings settled, in {database}"
    return {"database": str(database), **dataclasses.asdict(found), "text": text}
