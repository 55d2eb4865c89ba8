"""Charts as JSON for plotly.js: `{"data": [...], "layout": {...}}`."""

from __future__ import annotations

from typing import Any

from autotune.report.charts import Band, Cell, Chart, Rule, Series

_MARKS = {".": "circle", "o": "circle", "s": "square", "D": "diamond"}


def plotly_json(chart: Chart) -> dict[str, Any]:
    """The traces and layout of a chart; the page sets the colours of text and grid."""
    data = [trace for band in chart.bands for trace in _band(band)]
    data += [_series(series) for series in chart.series]
    if chart.bars:
        data.append(_bars(chart))
    shapes = [_rule(rule) for rule in chart.rules] + [_square(cell) for cell in chart.cells]
    notes = [_rule_name(rule) for rule in chart.rules]
    if chart.cells:
        data.append(_cells(chart))
    layout: dict[str, Any] = {
        "title": {"text": chart.title},
        "xaxis": _axis(chart.x_label, chart.x_ticks),
        "yaxis": _axis(chart.y_label, chart.y_ticks),
        "shapes": shapes,
        "annotations": notes,
        "height": round(96 * chart.height),
        "showlegend": any(series.name for series in chart.series),
    }
    if chart.y_log:
        layout["yaxis"]["type"] = "log"
    if chart.y_from_zero:
        layout["yaxis"]["rangemode"] = "tozero"
    if chart.cells:
        plain = {"showgrid": False, "zeroline": False}
        layout["yaxis"] |= {"range": [len(chart.y_ticks) - 0.5, -0.5], **plain}
        layout["xaxis"] |= {"range": [-0.5, len(chart.x_ticks) - 0.5], "tickangle": -60, **plain}
    return {"data": data, "layout": layout}


def _series(series: Series) -> dict[str, Any]:
    mode = "+".join(filter(None, ("lines" * bool(series.line), "markers" * bool(series.mark))))
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": mode,
        "x": list(series.x),
        "y": list(series.y),
        "name": series.name,
        "showlegend": bool(series.name),
        "line": {"color": series.colour, "dash": "dash" if series.line == "--" else "solid"},
        "marker": {
            "color": series.colour,
            "symbol": _MARKS.get(series.mark, "circle"),
            "size": 4 if series.mark == "." else 8,
        },
    }
    for name, values, ends in (
        ("error_x", series.x, series.x_error),
        ("error_y", series.y, series.y_error),
    ):
        if ends:
            pairs = list(zip(values, ends, strict=True))
            trace[name] = {
                "type": "data",
                "symmetric": False,
                "color": series.colour,
                "array": [high - value for value, (_, high) in pairs],
                "arrayminus": [value - low for value, (low, _) in pairs],
            }
    return trace


def _band(band: Band) -> list[dict[str, Any]]:
    """The area between two invisible lines."""
    common = {
        "type": "scatter",
        "mode": "lines",
        "x": list(band.x),
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    fill = {"fill": "tonexty", "fillcolor": f"{band.colour}33"}
    return [{**common, "y": list(band.low)}, {**common, "y": list(band.high), **fill}]


def _bars(chart: Chart) -> dict[str, Any]:
    bars = chart.bars
    return {
        "type": "bar",
        "x": [bar.x for bar in bars],
        "y": [bar.height for bar in bars],
        "base": [bar.bottom for bar in bars],
        "text": [bar.text for bar in bars],
        "textposition": "outside",
        "cliponaxis": False,
        "showlegend": False,
        "marker": {"color": [bar.colour for bar in bars]},
    }


def _cells(chart: Chart) -> dict[str, Any]:
    """The texts in the cells, with the names of row and column on hover."""
    cells = chart.cells
    dark = ["#ffffff" if (cell.shade or 0) > 0.65 else "#111111" for cell in cells]
    places = [f"{chart.y_ticks[cell.y]} {chart.x_ticks[cell.x]}" for cell in cells]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [cell.x for cell in cells],
        "y": [cell.y for cell in cells],
        "text": [cell.text for cell in cells],
        "hovertext": places,
        "hoverinfo": "text",
        "showlegend": False,
        "textfont": {"size": 11, "color": dark},
    }


def _square(cell: Cell) -> dict[str, Any]:
    shade = cell.shade or 0.0
    face = [round(255 * (1 - part * shade)) for part in (1.0, 0.55, 0.3)]
    colour = "#d9d9d9" if cell.shade is None else f"rgb({face[0]},{face[1]},{face[2]})"
    return {
        "type": "rect",
        "x0": cell.x - 0.5,
        "x1": cell.x + 0.5,
        "y0": cell.y - 0.5,
        "y1": cell.y + 0.5,
        "fillcolor": colour,
        "line": {"width": 0.5, "color": "#888888"},
        "layer": "below",
    }


def _rule(rule: Rule) -> dict[str, Any]:
    across = "y" if rule.axis == "x" else "x"
    return {
        "type": "line",
        f"{rule.axis}0": rule.at,
        f"{rule.axis}1": rule.at,
        f"{across}0": 0,
        f"{across}1": 1,
        f"{across}ref": "paper",
        "line": {"color": rule.colour, "width": 1, "dash": "dash" if rule.dashed else "solid"},
    }


def _rule_name(rule: Rule) -> dict[str, Any]:
    across = "y" if rule.axis == "x" else "x"
    return {
        "text": rule.name,
        "showarrow": False,
        rule.axis: rule.at,
        across: 1,
        f"{across}ref": "paper",
        "xanchor": "left" if rule.axis == "x" else "right",
        "yanchor": "top" if rule.axis == "x" else "bottom",
        "font": {"color": rule.colour},
    }


def _axis(label: str, ticks: Any) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": label}, "automargin": True}
    if ticks:
        axis |= {"tickvals": list(range(len(ticks))), "ticktext": list(ticks)}
    return axis
