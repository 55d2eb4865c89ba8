"""One self-contained HTML file from a run's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.report import figures
from autotune.report.artefacts import render_artefacts, tuned_artefacts
from autotune.report.page import environment
from autotune.types import Workload, from_mapping


def write_report(
    record: Mapping[str, Any], staircases: Sequence[Mapping[str, Any]], path: Path
) -> None:
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
            staircases=staircases,
            artefacts=render_artefacts(tuned_artefacts(record)),
            waterfall=figures.waterfall_steps(record),
            figure={
                "pareto": figures.pareto(record),
                "heat_map": figures.heat_map(sites),
                "agreement": figures.agreement(sites),
                "waterfall": figures.waterfall(record),
                "rounds": figures.rounds(record) if record["measured_ratio"] is not None else "",
                "staircases": [figures.staircase(curve) for curve in staircases],
            },
        )
    )
    path.write_text(page, encoding="utf-8")
