"""`autotune db list`: the databases that come with the package."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.main import emit, format_option

if TYPE_CHECKING:
    from autotune.profiler.sources.shipped import ShippedFile


@click.command(
    "list",
    short_help="List the databases that come with the package.",
    epilog="Example: autotune db list",
)
@format_option
def command(output_format: str) -> None:
    """List the databases that come with the package, each checked against its checksum.

    With the number of points of every backend and dtype, licence, author, version of the schema,
    date, and what made the file. `autotune db import --device NAME` copies one into your own.
    """
    from autotune.profiler.sources.shipped import shipped_files

    found = shipped_files()
    lines = [line for shipped in found for line in _lines(shipped)]
    emit(output_format, {"databases": [_record(shipped) for shipped in found]}, lines=lines)


def _lines(shipped: ShippedFile) -> list[str]:
    from autotune.core.quantities import format_bytes

    facts = shipped.facts
    lines = [
        f"{shipped.name}  {format_bytes(shipped.size_bytes)}, schema {facts.schema}, "
        f"{facts.license}, {facts.author}, {facts.created_at[:10]}, {facts.program}",
        f"  sha256 {shipped.sha256}",
    ]
    lines += [
        f"  {fingerprint.device_name}, {fingerprint.backend} {fingerprint.dtype}: {points} points"
        for fingerprint, points in shipped.points
    ]
    return lines


def _record(shipped: ShippedFile) -> dict[str, Any]:
    tables = [{**record.to_json(), "points": points} for record, points in shipped.points]
    return {
        "file": shipped.name,
        "device": shipped.device,
        "sha256": shipped.sha256,
        "size_bytes": shipped.size_bytes,
        **dataclasses.asdict(shipped.facts),
        "fingerprints": tables,
    }
