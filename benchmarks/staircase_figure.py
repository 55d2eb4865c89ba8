"""Draw docs/staircase.svg from the shipped database: latency ratio against rank on an H200.

python benchmarks/staircase_figure.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from autotune.core.layers import LayerShape
from autotune.profiler.sources.shipped import shipped_tables

DOCS = Path(__file__).resolve().parent.parent / "docs"
LAYER = LayerShape(tokens=2048, in_features=4096, out_features=4096, dtype="bf16")
LEAST_RANK = 448


def main() -> None:
    """Write the figure."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    draw(DOCS / "staircase.svg")


def points() -> list[tuple[int, float]]:
    """Measured ranks of the layer, and their ratios to dense."""
    (_, rows), *_ = shipped_tables("h200-sxm", LAYER.dtype)
    plain = [row for row in rows if not row.shape.form.suffix]
    pairs = [row for row in plain if row.shape.dense == LAYER and row.shape.rank >= LEAST_RANK]
    return sorted((row.shape.rank, row.ratio) for row in pairs)


def draw(path: Path) -> None:
    """Write the figure to `path`; its words stay text."""
    rows = points()
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
