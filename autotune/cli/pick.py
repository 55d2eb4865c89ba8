"""`autotune pick FOLDER`: hand out another plan that a tuning measured."""

from __future__ import annotations

from pathlib import Path

import click

from autotune.cli.main import echo, emit, format_option


@click.command(
    "pick", epilog="Example: autotune pick out --quality-floor 0.99 (after tune … --front 8)"
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--latency-budget", metavar="LIMIT", help="Latency, such as 20ms or 0.6x.")
@click.option(
    "--quality-floor", metavar="FIGURE", help="Least quality on held-out data, such as 0.99."
)
@click.option("--quiet", is_flag=True, help="Hide progress output.")
@format_option
def command(
    folder: Path,
    latency_budget: str | None,
    quality_floor: str | None,
    quiet: bool,
    output_format: str,
) -> int:
    """Hand out another plan that the tuning in FOLDER measured, in place of the present one.

    Within a latency budget the plan of best quality, under a quality floor alone the fastest.
    Nothing is measured again. Exit code 3 if no plan is within the limits.
    """
    from autotune.results.result import read_result

    read_result(folder)  # a wrong folder is refused before anything heavy is imported
    from autotune.cli.reporting import make_reporter
    from autotune.report.summary import miss_text, summary
    from autotune.results.verdict import Verdict
    from autotune.tuning.picking import pick

    result = pick(
        folder,
        make_reporter(quiet=quiet),
        latency_budget=latency_budget,
        quality_floor=quality_floor,
    )
    record = {**result.record.to_json(), "output": str(result.folder)}
    emit(output_format, record, lines=summary(result.record, result.folder))
    if result.verdict is not Verdict.MET:
        echo(f"autotune: {miss_text(result.record)}", err=True)
    return result.record.exit_code
