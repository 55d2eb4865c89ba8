"""A figure as data, independent of what draws it (report/svg.py or report/plotly_json.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Okabe–Ito palette, distinguishable with every kind of colour blindness.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
Mark = Literal["", ".", "o", "s", "D"]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points, joined if there is a `line`; `x_error` and `y_error` hold (low, high) per point."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    colour: str = BLUE
    mark: Mark = ""
    line: Literal["", "-", "--"] = ""
    x_error: Sequence[tuple[float, float]] = ()
    y_error: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, kw_only=True)
class Band:
    """The interval around a line."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str = BLUE


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line across the whole figure, at one x or one y."""

    axis: Literal["x", "y"]
    at: float
    name: str
    colour: str = RED
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar at position `x` from `bottom`, up or (if negative) down by `height`."""

    x: int
    bottom: float
    height: float
    text: str
    colour: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a heat map; `shade` runs from 0 (light) to 1 (dark), None is hatched or grey."""

    x: int
    y: int
    shade: float | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure. `width` and `height` are in inches; ticks label the positions from 0 upwards."""

    x_label: str = ""
    y_label: str = ""
    title: str = ""
    series: Sequence[Series] = ()
    bands: Sequence[Band] = ()
    rules: Sequence[Rule] = ()
    bars: Sequence[Bar] = ()
    cells: Sequence[Cell] = ()
    x_ticks: Sequence[str] = ()
    y_ticks: Sequence[str] = ()
    y_log: bool = False
    y_from_zero: bool = False
    width: float = 6.0
    height: float = 3.6
