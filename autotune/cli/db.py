"""`autotune db info|list|export|import|merge|ship|verify|forget|drift`: latency databases."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from autotune.cli import db_list
from autotune.cli.job_options import DriftOptions
from autotune.cli.main import emit, format_option
from autotune.cli.options import DEVICE, database_option
from autotune.cli.schema import schema_options, values
from autotune.core.paths import check_database_exists
from autotune.core.types import Address
from autotune.layers.options import parse_shape

_PATH = click.Path(path_type=Path)


@click.group("db", epilog="Example: autotune db info")
def command() -> None:
    """Inspect, move and check latency databases."""


command.add_command(db_list.command)


@command.command(
    "info",
    short_help="List the fingerprints and count their points.",
    epilog="Example: autotune db info --format json",
)
@database_option
@format_option
def info(database: Address, output_format: str) -> None:
    """List the fingerprints in the database, with the number of points measured for each."""
    from autotune.profiler.database.latency import LatencyDatabase
    from autotune.profiler.database.records import measured_rows
    from autotune.profiler.measure.settling import Settled

    entries = []
    lines = [str(database)]
    check_database_exists(database)
    with LatencyDatabase(database) as store:
        checks = store.last_checks()
        for key, fingerprint in store.fingerprints().items():
            rows, failed = store.rows(key), len(store.failures(key))
            settled = Settled.of(measured_rows(rows)).settled
            last = checks.get(key)
            entries.append(
                {
                    "id": key,
                    **fingerprint.to_json(),
                    "points": len(rows),
                    "failed": failed,
                    "settled": settled,
                    "drift": last.to_json() if last else None,
                }
            )
            lines.append(
                f"{key}  {fingerprint.device_name}, {fingerprint.backend} {fingerprint.dtype}, "
                f"{fingerprint.threads} threads: {len(rows)} points, {settled} settled, "
                f"{failed} failed" + (f", {last.verdict} on {last.checked_at[:10]}" if last else "")
            )
        runs = store.runs()
    if not entries:
        lines.append("empty: nothing has been measured yet; `autotune profile` measures layers")
    emit(
        output_format,
        {"database": str(database), "fingerprints": entries, "runs": runs},
        lines=lines,
    )


@command.command("export", epilog="Example: autotune db export latencies.parquet")
@click.argument("path", type=_PATH)
@database_option
@format_option
def export(path: Path, database: Address, *, output_format: str) -> None:
    """Write all points to a .csv or .parquet file."""
    from autotune.profiler.database.exchange import export_table
    from autotune.profiler.database.latency import LatencyDatabase

    check_database_exists(database)
    with LatencyDatabase(database) as store:
        count = export_table(store, path)
    emit(
        output_format, {"rows": count, "path": str(path)}, lines=[f"{count} rows written to {path}"]
    )


@command.command(
    "import",
    short_help="Add the points of an export, or known points of a device.",
    epilog="Example: autotune db import latencies.parquet",
)
@click.argument("path", type=_PATH, required=False)
@click.option(
    "--device",
    type=DEVICE,
    metavar="NAME",
    help="Import the points shipped for this device, or third-party GEMM measurements; with a "
    "file: your own points of it.",
)
@database_option
@format_option
def import_(
    path: Path | None, device: str | None, *, database: Address, output_format: str
) -> None:
    """Add the points of an exported .csv or .parquet file, or points of a device.

    With --device alone: the points that ship with this package or, if there are none, third-party
    measurements from the installed aiconfigurator-core package. With a .csv file and --device: your
    own points of that device, six columns (docs/devices.md).
    """
    from autotune.core.errors import UsageError
    from autotune.core.option_names import about
    from autotune.devices.specs import find_device
    from autotune.profiler.database.exchange import import_table
    from autotune.profiler.database.latency import LatencyDatabase
    from autotune.profiler.database.points import import_points
    from autotune.profiler.sources.aiconfigurator import import_gemms
    from autotune.profiler.sources.shipped import load_shipped, shipped_devices

    if path is None and device is None:
        raise UsageError("give a file, --device NAME, or both")
    with about("machine.device"):
        spec = find_device(device) if device else None
    with LatencyDatabase(database) as store:
        if spec is None:
            assert path is not None, "one of them is given"
            count, origin = import_table(store, path), str(path)
        elif path is not None:
            count, origin = import_points(store, path, spec=spec), str(path)
        else:
            name = spec.name
            if name in shipped_devices():
                count, origin = load_shipped(store, name), f"the database of {name} in this package"
            else:
                count, origin = import_gemms(store, name), f"third-party measurements of {name}"
    emit(
        output_format, {"rows": count, "origin": origin}, lines=[f"{count} rows read from {origin}"]
    )


@command.command(
    "merge",
    short_help="Add the measurements of another database file.",
    epilog="Example: autotune db merge colleague.sqlite",
)
@click.argument("path", type=_PATH)
@click.option(
    "--keep-apart",
    is_flag=True,
    help="Merge even if versions or settings differ; keeps them separate.",
)
@database_option
@format_option
def merge(path: Path, keep_apart: bool, *, database: Address, output_format: str) -> None:
    """Add the measurements of another database file, with their samples, clocks and origin.

    A database of the same device whose versions or settings differ is rejected unless
    --keep-apart is given.
    """
    from autotune.profiler.database.exchange import merge as merge_file
    from autotune.profiler.database.latency import LatencyDatabase

    with LatencyDatabase(database) as store:
        count = merge_file(store, path, keep_apart=keep_apart)
    emit(
        output_format, {"rows": count, "path": str(path)}, lines=[f"{count} rows read from {path}"]
    )


@command.command(
    "ship",
    short_help="Write the whole database to one file for `db merge`.",
    epilog="Example: autotune db ship a-gpu.sqlite",
)
@click.argument("path", type=_PATH)
@database_option
@format_option
def ship(path: Path, database: Address, *, output_format: str) -> None:
    """Write the whole database to one file, which `autotune db merge` reads on another machine."""
    from autotune.profiler.database.exchange import ship as ship_file
    from autotune.profiler.database.latency import LatencyDatabase

    check_database_exists(database)
    with LatencyDatabase(database) as store:
        sha256 = ship_file(store, path)
    emit(
        output_format,
        {"path": str(path), "sha256": sha256},
        lines=[f"{path} written, sha256 {sha256}"],
    )


@command.command("verify", epilog="Example: autotune db verify")
@database_option
@format_option
def verify(database: Address, output_format: str) -> int:
    """Recompute every hash, and quarantine impossible points.

    Quarantined points are kept but no longer used. If a hash does not match, nothing is written and
    the exit code is 1.
    """
    from autotune.profiler.database.audit import find_problems, find_suspects, quarantine
    from autotune.profiler.database.latency import LatencyDatabase

    check_database_exists(database)
    with LatencyDatabase(database) as store:
        problems = find_problems(store)
        # What was changed is not judged further, and nothing is written to it.
        suspects = [] if problems else find_suspects(store)
        quarantine(store, suspects)
    found = [f"{suspect.row.shape}: {suspect.reason}" for suspect in suspects]
    lines = problems or [f"{database}: every hash matches"]
    lines += [f"quarantined: {text}" for text in found]
    record = {"database": str(database), "problems": problems, "quarantined": found}
    emit(output_format, record, lines=lines)
    return 1 if problems else 0


@command.command(
    "forget",
    short_help="Remove the points that meet all conditions given.",
    epilog="Example: autotune db forget --not-converged --yes",
)
@click.option("--device", type=DEVICE, metavar="NAME", help="Points of this device.")
@click.option(
    "--fingerprint", metavar="ID", help="Points of this fingerprint (or its first digits)."
)
@click.option("--not-converged", is_flag=True, help="Points that did not settle, or failed.")
@click.option(
    "--shape", "shapes", multiple=True, metavar="KxN", help="Points of this layer. [repeatable]"
)
@click.option(
    "--tokens",
    multiple=True,
    type=int,
    metavar="M",
    help="Points with this number of input rows, M. [repeatable]",
)
@click.option("--yes", is_flag=True, help="Remove them; without it they are only counted.")
@database_option
@format_option
def forget(
    database: Address,
    output_format: str,
    *,
    device: str | None,
    fingerprint: str | None,
    not_converged: bool,
    shapes: tuple[str, ...],
    tokens: tuple[int, ...],
    yes: bool,
) -> None:
    """Remove the points that meet all conditions given, so that they are measured afresh."""
    from autotune.core.errors import UsageError
    from autotune.core.option_names import about
    from autotune.devices.specs import find_device
    from autotune.profiler.database.forget import Forgettable, find_forgettable
    from autotune.profiler.database.forget import forget as remove
    from autotune.profiler.database.latency import LatencyDatabase

    if not (device or fingerprint or not_converged or shapes or tokens):
        raise UsageError(
            "nothing was chosen; give --device, --fingerprint, --not-converged, --shape or --tokens"
        )
    layers = [parse_shape(shape, 1) for shape in shapes]
    with about("machine.device"):
        name = find_device(device).name if device else None
    chosen = Forgettable(
        device=name,
        fingerprint=fingerprint or "",
        not_converged=not_converged,
        sizes={(layer.in_features, layer.out_features) for layer in layers},
        tokens=tokens,
    )
    check_database_exists(database)
    with LatencyDatabase(database) as store:
        if fingerprint and not any(key.startswith(fingerprint) for key in store.fingerprints()):
            raise UsageError(
                f"no fingerprint in {database} begins with {fingerprint!r}; `autotune db info` "
                "lists them"
            )
        found = find_forgettable(store, chosen)
        count = remove(store, found) if yes else sum(map(len, found.values()))
    counts = {key: len(rows) for key, rows in found.items()}
    lines = [f"{key}: {number} points" for key, number in counts.items()]
    lines.append(
        f"{count} points removed from {database}"
        if yes
        else f"{count} points would be removed from {database}; add --yes to remove them"
    )
    record = {"database": str(database), "points": count, "removed": yes, "fingerprints": counts}
    emit(output_format, record, lines=lines)


@command.command(
    "drift",
    short_help="Time some points again and compare them with the database.",
    epilog="Example: autotune db drift",
)
@schema_options(DriftOptions, filled=True)
@format_option
def drift(output_format: str, **options: Any) -> int:
    """Time some points again, and report whether the database is still valid (exit code 1 if not).

    The finding is stored in the database; `autotune db info` and the service's pages show it.
    """
    from autotune.cli.reporting import make_reporter
    from autotune.profiler.database.records import timestamp
    from autotune.profiler.measure.drift import measure_drift
    from autotune.tuning.machines import local_machine
    from autotune.tuning.network_timing import layer_policy
    from autotune.tuning.options import MachineOptions

    chosen: DriftOptions = values(DriftOptions, options)
    chosen.check()
    machine_options = MachineOptions(
        **{name: options[name] for name in ("device", "backend", "dtype", "threads", "database")}
    )
    with local_machine(machine_options) as machine:
        policy = layer_policy(machine.spec.kind, machine.measure_seconds)
        fingerprint = machine.fingerprint
        rows = machine.database.measurements(fingerprint.id)
        with make_reporter().stage("drift check") as advance:
            found = measure_drift(
                rows, machine.runner, policy=policy, count=chosen.anchors, progress=advance
            )
        check = found.check(timestamp())
        machine.database.add_check(fingerprint, check)
    pace = math.exp(found.latency_change)
    lines = [
        f"{check.verdict}: {check.moved} of {check.anchors} ratios moved by more than 5 % (median "
        f"{found.ratio_change:.1%}); latencies are {pace:.2f}x the stored ones, "
        f"{len(found.failures)} failed"
    ]
    record = {"fingerprint": fingerprint.id, **check.to_json(), "failures": found.failures}
    emit(output_format, record, lines=lines)
    return 0 if check.valid else 1
