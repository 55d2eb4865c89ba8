"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from autotune.cli.schema import single
from autotune.core.errors import UsageError
from autotune.core.layers import LayerShape
from autotune.core.paths import data_folder, database_address, default_database
from autotune.core.types import Address
from autotune.tune.options import MachineOptions


class _AddressType(click.ParamType[Address]):
    name = "path or url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        return database_address(str(value))


database_option = click.option(
    "--db",
    "database",
    type=_AddressType(),
    default=lambda: str(default_database()),
    help="Latency database: a SQLite file or postgresql://… (default: $AUTOTUNE_DB or the user's).",
)
device_option = single(MachineOptions, "machine.device")
backend_option = single(MachineOptions, "machine.backend")
dtype_option = single(MachineOptions, "machine.dtype")
extrapolation_option = single(MachineOptions, "machine.allow_extrapolation")
threads_option = single(MachineOptions, "machine.threads")
token_option = click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=lambda: str(data_folder() / "farm-token"),
    help="File that holds the farm's token, unless $AUTOTUNE_FARM_TOKEN is set.",
)

_SHAPE = re.compile(r"([0-9]{1,7})x([0-9]{1,7})")


def parse_shape(text: str, tokens: int) -> LayerShape:
    """`384x1536` (in_features x out_features) on `tokens` rows.

    Raises:
        UsageError: another form, or a size of zero.
    """
    match = _SHAPE.fullmatch(text)
    if match is None or "0" in match.groups() or tokens < 1:
        raise UsageError(
            f"{text!r} on {tokens} tokens is no layer; write IN_FEATURESxOUT_FEATURES such as "
            "384x1536, and at least 1 token"
        )
    return LayerShape(
        tokens=tokens, in_features=int(match.group(1)), out_features=int(match.group(2))
    )
