"""Draw docs/staircase.svg from docs/staircase.csv: latency ratio against rank on one H200.

python benchmarks/staircase_figure.py
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    """Write the figure."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    draw(DOCS / "staircase.svg")


def draw(path: Path) -> None:
    """Write the figure of docs/staircase.csv to `path`; its words stay text."""
    with (DOCS / "staircase.csv").open() as stream:
        rows = [(int(r["rank"]), float(r["ratio"])) for r in csv.DictReader(stream)]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for i, (rank, ratio) in enumerate(rows):
        aligned = rank % 8 == 0
        axes.bar(i, ratio, color="#0072B2" if aligned else "#D55E00")
        axes.text(i, ratio, f"{ratio:.2f}", ha="center", va="bottom", fontsize=8)
    axes.axhline(1.0, color="#666666", lw=1, ls="--")
    axes.set(
        xticks=range(len(rows)), ylabel="time / dense time", xlabel="rank (blue: multiples of 8)"
    )
    axes.set_xticklabels([str(rank) for rank, _ in rows])
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
