"""`autotune pick FOLDER`: hand out another plan that a tuning measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from autotune.cli.main import format_option
from autotune.cli.schema import schema_options, values
from autotune.core.options import check_options, same
from autotune.core.types import Budget


@dataclass(frozen=True, kw_only=True)
class PickOptions:
    """The limits that a plan is picked by."""

    latency_budget: str | None = same(Budget, "latency")
    quality_floor: str | None = same(Budget, "quality")

    def __post_init__(self) -> None:
        check_options(self)


@click.command(
    "pick", epilog="Example: autotune pick out --quality-floor 0.99 (after tune … --front 8)"
)
@click.argument("folder", type=click.Path(path_type=Path))
@schema_options(PickOptions)
@click.option("--quiet", is_flag=True, help="Hide progress output.")
@format_option
def command(folder: Path, *, quiet: bool, output_format: str, **options: Any) -> int:
    """Hand out another plan that the tuning in FOLDER measured, in place of the present one.

    Within a latency budget the plan of best quality, under a quality floor alone the fastest. Its
    measurement is taken as it is. Exit code 3 if no plan is within the limits.
    """
    from autotune.results.result import read_result

    chosen: PickOptions = values(PickOptions, options)
    read_result(folder)  # a wrong folder is refused before anything heavy is imported
    from autotune.cli.reporting import make_reporter, print_result
    from autotune.tuning.picking import pick

    result = pick(
        folder,
        make_reporter(quiet=quiet),
        latency_budget=chosen.latency_budget,
        quality_floor=chosen.quality_floor,
    )
    return print_result(result, output_format)
