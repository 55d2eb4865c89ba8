"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from autotune.core.errors import UsageError
from autotune.core.layers import LayerShape
from autotune.core.paths import data_folder, database_address, default_database
from autotune.core.types import Address


class _AddressType(click.ParamType[Address]):
    name = "path or url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        return database_address(str(value))


database_option = click.option(
    "--db", "database", type=_AddressType(), default=lambda: str(default_database()),
    help="Latency database: a SQLite file or postgresql://… (default: $AUTOTUNE_DB or the user's).",
)  # fmt: skip
device_option = click.option(
    "--device", default="cpu", show_default=True, help="Device, see `autotune devices`."
)
backend_option = click.option(
    "--backend",
    help="What runs the model (default: onnxruntime-cpu on a CPU, torch-cudagraph on a GPU).",
)  # fmt: skip
dtype_option = click.option(
    "--dtype", type=click.Choice(["fp32", "fp16", "bf16"]),
    help="Of weights and activations (default: fp32 on a CPU, bf16 on a GPU).",
)  # fmt: skip
extrapolation_option = click.option(
    "--allow-extrapolation", is_flag=True,
    help="Predict what nobody measured: a GPU from its sheet and other devices' tables.",
)  # fmt: skip
token_option = click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False),
    default=lambda: str(data_folder() / "farm-token"),
    help="Where the farm's token is, unless $AUTOTUNE_FARM_TOKEN holds it.",
)  # fmt: skip
threads_option = click.option("--threads", type=int, help="Threads of the backend (default: all).")

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
