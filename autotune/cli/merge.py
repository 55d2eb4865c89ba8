"""`autotune merge FOLDER`: write the dense equivalent of a factorized checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from autotune.cli.main import emit, format_option


@click.command("merge", epilog="Example: autotune merge out -o out/dense")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="New folder (default: FOLDER/dense)."
)
@format_option
def command(folder: Path, output: Path | None, *, output_format: str) -> int:
    """Write the dense equivalent of a factorized checkpoint, with the factors multiplied out."""
    from autotune.export.dense import merge

    target = merge(folder, output)
    emit(output_format, {"output": str(target)}, lines=[f"dense model written to {target}"])
    return 0
