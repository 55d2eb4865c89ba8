"""One self-contained HTML file from a run's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from autotune.report import figures
from autotune.types import Workload, from_mapping
from autotune.units import format_bytes, format_count, format_seconds


def write_report(
    record: Mapping[str, Any], staircases: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Write the report; every figure has its table beside it."""
    environment = Environment(
        loader=PackageLoader("autotune.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "seconds": format_seconds,
        "bytes": format_bytes,
        "count": format_count,
    }
    sites = [site for site in record["sites"] if "group" in site]
    page = environment.get_template("report.html").render(
        r=record,
        workload=from_mapping(Workload, record["workload"]),
        sites=sites,
        left_out=[site for site in record["sites"] if "group" not in site],
        staircases=staircases,
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
    path.write_text(page, encoding="utf-8")
