"""Charts as SVG text, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from autotune.report.charts import GREY, Cell, Chart, Series


def svg(chart: Chart) -> str:
    """The chart as one `<svg>` element."""
    figure = Figure(figsize=(chart.width, chart.height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    if not chart.cells:
        axes.grid(True, alpha=0.25, linewidth=0.6)
    for band in chart.bands:
        axes.fill_between(band.x, band.low, band.high, color=band.colour, alpha=0.2, lw=0)
    for series in chart.series:
        _draw(axes, series)
    for rule in chart.rules:
        line = axes.axvline if rule.axis == "x" else axes.axhline
        line(rule.at, color=rule.colour, lw=1, ls="--" if rule.dashed else "-", label=rule.name)
    for bar in chart.bars:
        axes.bar(bar.x, bar.height, bottom=bar.bottom, color=bar.colour)
        place: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8}
        axes.text(bar.x, bar.bottom + bar.height, bar.text, **place)
    for cell in chart.cells:
        _fill(axes, cell)
    _label(axes, chart)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _draw(axes: Axes, series: Series) -> None:
    style: dict[str, Any] = {
        "color": series.colour,
        "marker": series.mark,
        "ls": series.line or "none",
        "label": series.name or None,
        "ms": 4 if series.mark in ("o", "s") else None,
        "lw": 1.2,
    }
    errors: dict[str, Any] = {
        name: _spread(values, ends)
        for name, values, ends in (
            ("xerr", series.x, series.x_error),
            ("yerr", series.y, series.y_error),
        )
        if ends
    }
    if errors:
        axes.errorbar(series.x, series.y, **errors, capsize=3, **style)
    else:
        axes.plot(series.x, series.y, **style)


def _spread(
    values: Sequence[float], ends: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    pairs = list(zip(values, ends, strict=True))
    return [value - low for value, (low, _) in pairs], [high - value for value, (_, high) in pairs]


def _fill(axes: Axes, cell: Cell) -> None:
    dense = cell.shade is None
    shade = cell.shade or 0.0
    face = "white" if dense else (1 - shade, 1 - 0.55 * shade, 1 - 0.3 * shade)
    square = Rectangle(
        (cell.x - 0.5, cell.y - 0.5),
        1,
        1,
        facecolor=face,
        edgecolor=GREY,
        lw=0.5,
        hatch="///" if dense else None,
        alpha=0.9,
    )
    axes.add_patch(square)
    colour = "white" if shade > 0.65 else "black"
    axes.text(cell.x, cell.y, cell.text, ha="center", va="center", fontsize=8, color=colour)


def _label(axes: Axes, chart: Chart) -> None:
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label, title=chart.title)
    if chart.y_log:
        axes.set_yscale("log")
    if chart.y_from_zero:
        axes.set_ylim(bottom=0)
    if chart.cells:
        axes.set(xlim=(-0.5, len(chart.x_ticks) - 0.5), ylim=(len(chart.y_ticks) - 0.5, -0.5))
    if chart.x_ticks:
        axes.set_xticks(range(len(chart.x_ticks)))
        slant: dict[str, Any] = {"rotation": 25, "ha": "right"} if chart.cells else {}
        axes.set_xticklabels(list(chart.x_ticks), fontsize=8, **slant)
    if chart.y_ticks:
        axes.set_yticks(range(len(chart.y_ticks)))
        axes.set_yticklabels(list(chart.y_ticks))
    names = [series.name for series in chart.series] + [rule.name for rule in chart.rules]
    if any(names):
        axes.legend(frameon=False, fontsize=8)
