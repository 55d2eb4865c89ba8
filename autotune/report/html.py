"""One self-contained HTML file from a run's record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.core.types import Workload, from_mapping
from autotune.report import figures
from autotune.report.builds import render_artefacts, tuned_artefacts
from autotune.report.page import environment
from autotune.report.svg import svg


def write_report(record: Mapping[str, Any], path: Path) -> None:
    """Write the report; every figure has its table beside it."""
    sites = [site for site in record["sites"] if "group" in site]
    page = (
        environment()
        .get_template("report.html")
        .render(
            r=record,
            workload=from_mapping(Workload, record["workload"]),
            sites=sites,
            left_out=[site for site in record["sites"] if "group" not in site],
            staircases=record["staircases"],
            artefacts=render_artefacts(tuned_artefacts(record)),
            waterfall=figures.waterfall_steps(record),
            figure={
                name: [svg(chart) for chart in charts]
                for name, charts in figures.run_figures(record).items()
            },
        )
    )
    path.write_text(page, encoding="utf-8")
