"""`autotune bench DIR`: measure a finished result again."""

from __future__ import annotations

from pathlib import Path

import click

from autotune.cli.main import emit, format_option


@click.command("bench", epilog="Example: autotune bench out")
@click.argument("folder", type=click.Path(path_type=Path))
@format_option
def command(folder: Path, output_format: str) -> int:
    """Measure a finished result again, alternating with its dense model; exit code 1 on a miss."""
    from autotune.results.result import read_result

    read_result(folder)  # a wrong folder is refused before anything heavy is imported
    from autotune.cli.reporting import make_reporter
    from autotune.core.quantities import format_seconds
    from autotune.tune.bench import bench

    record = bench(folder, make_reporter())
    lines = [
        f"latency {format_seconds(record['latency_s'])} against "
        f"{format_seconds(record['dense_latency_s'])} dense, ratio {record['ratio']:.3f} (95 %: "
        f"{record['ratio_low']:.3f} to {record['ratio_high']:.3f}); at tuning time "
        f"{record['tuned_ratio']:.3f}",
        "budget met" if record["within_budget"] else "budget MISSED",
    ]
    emit(output_format, record, lines)
    return 0 if record["within_budget"] else 1
