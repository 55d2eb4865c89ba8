"""`autotune bench FOLDER`: measure a finished result again."""

from __future__ import annotations

from pathlib import Path

import click

from autotune.cli.main import emit, format_option


@click.command("bench", epilog="Example: autotune bench out")
@click.argument("folder", type=click.Path(path_type=Path))
@format_option
def command(folder: Path, output_format: str) -> int:
    """Measure a finished tuning again, alternating with its dense model.

    Exit code 0 if the budget is met, 1 if it is missed, and 5 if the interval of the measurement
    contains the limit.
    """
    from autotune.results.result import read_result

    read_result(folder)  # a wrong folder is refused before anything heavy is imported
    from autotune.cli.reporting import make_reporter
    from autotune.report.summary import bench_lines
    from autotune.tuning.bench import bench

    record = bench(folder, make_reporter())
    emit(output_format, record.to_json(), lines=bench_lines(record))
    return record.verdict.exit_code
