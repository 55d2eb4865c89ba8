"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from autotune.cli.main import json_flag, wants_json
from autotune.cli.schema import Suggested, single
from autotune.core.paths import data_folder
from autotune.devices.specs import device_names
from autotune.tuning.options import MachineOptions

database_option = single(MachineOptions, "machine.database")
threads_option = single(MachineOptions, "machine.threads")
DEVICE = Suggested(device_names)
token_option = click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=lambda: str(data_folder() / "farm-token"),
    help="File that holds the farm's token, unless $AUTOTUNE_FARM_TOKEN is set.",
)

FILE_FORMATS = ("onnx", "tensorrt")


def file_format_option(command: Any) -> Any:
    """`--format onnx|tensorrt` of an exported file, and `--format json` or `--json` of the output.

    The values go to `formats`, which `split_formats` takes apart.
    """
    choose = click.option(
        "--format",
        "formats",
        type=click.Choice([*FILE_FORMATS, "text", "json"]),
        multiple=True,
        callback=lambda ctx, _, value: (*value, "json") if wants_json(ctx) else value,
        help="File format: onnx (default) or tensorrt. json: the last line of stdout is one JSON "
        "document; repeat the option for both, or use --json.",
    )
    return choose(json_flag(command))


def split_formats(formats: Sequence[str]) -> tuple[str, str]:
    """The file format and the output format among the values of `--format`; the last of each."""
    files = [each for each in formats if each in FILE_FORMATS] or ["onnx"]
    outputs = [each for each in formats if each not in FILE_FORMATS] or ["text"]
    return files[-1], outputs[-1]
