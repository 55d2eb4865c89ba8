"""Draw docs/alternatives.svg from docs/alternatives.csv, which is a table of alternatives.py.

python benchmarks/alternatives_figure.py
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent.parent / "docs"
_OURS, _OTHERS = "#0072B2", "#BBBBBB"
_ROOM = 1.5  # for the text at the end of the longest bar


def main() -> None:
    """Write the figure."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    draw(DOCS / "alternatives.svg")


def draw(path: Path) -> None:
    """Write the figure of docs/alternatives.csv to `path`; its words stay text."""
    with (DOCS / "alternatives.csv").open() as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: float(row["latency_ms"]))
    latencies_ms = [float(row["latency_ms"]) for row in rows]
    figure = Figure(figsize=(7.5, 0.36 * len(rows) + 0.7), layout="constrained")
    axes = figure.add_subplot()
    colours = [_OURS if row["name"] == "make tune" else _OTHERS for row in rows]
    axes.barh([row["name"] for row in rows], latencies_ms, color=colours)
    for place, (row, latency_ms) in enumerate(zip(rows, latencies_ms, strict=True)):
        text = f" {latency_ms:.0f} ms, cosine {float(row['cosine']):.4f}"
        axes.text(latency_ms, place, text, va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, _ROOM * max(latencies_ms)), xlabel="latency of 8 × 128 tokens, ms")
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
