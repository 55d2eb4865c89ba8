"""One self-contained HTML file from the record of a tuning."""

from __future__ import annotations

from pathlib import Path

from autotune.report import figures
from autotune.report.builds import render_builds, tuned_builds
from autotune.report.page import environment
from autotune.report.summary import verdict_text
from autotune.report.svg import svg
from autotune.results.record import TuneRecord


def write_report(record: TuneRecord, path: Path) -> None:
    """Write the report; every figure has its table beside it."""
    drawn = {
        name: [svg(chart) for chart in charts]
        for name, charts in figures.run_figures(record).items()
    }
    template = environment().get_template("report.html")
    page = template.render(
        r=record,
        verdict=verdict_text(record),
        builds=render_builds(tuned_builds(record)),
        waterfall=figures.waterfall_steps(record),
        figure=drawn,
    )
    path.write_text(page, encoding="utf-8")
