"""The figures of a tuning, of a layer and of several tunings, as charts that others draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from autotune.report.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Band,
    Bar,
    Cell,
    Chart,
    Rule,
    Series,
)
from autotune.results.record import CurvePoint, SiteRecord, Staircase, TuneRecord

_RATIO_LABEL = "latency / dense latency"
_LOSS_LABEL = "predicted loss increase"


def run_figures(record: TuneRecord) -> dict[str, list[Chart]]:
    """Every figure of a tuning by its name; figures of measurements only where there are some."""
    found = {
        "pareto": [pareto(record)],
        "heat_map": [heat_map(record.sites)],
        "waterfall": [waterfall(record)],
    }
    if record.measured is not None:
        found |= {"agreement": [agreement(record.sites)], "rounds": [rounds(record)]}
    return found | {"staircases": [staircase(curve) for curve in record.staircases]}


def pareto(record: TuneRecord) -> Chart:
    """Loss against latency ratio: exact front, uniform plans, budget, and what was measured."""
    loss, measured = record.solver.table_loss, record.measured
    uniform = Series(
        x=[point.ratio for point in record.uniform],
        y=[point.loss for point in record.uniform],
        line="--",
        mark=".",
        name="uniform keep ratio",
        colour=GREY,
    )
    predicted = Series(x=[record.predicted_ratio], y=[loss], mark="o", name="chosen, predicted")
    series = [_front(record.pareto, "exact", colour=BLUE), uniform, predicted]
    if measured is not None:
        series.append(
            Series(
                x=[measured.ratio],
                y=[loss],
                x_error=[(measured.ratio_low, measured.ratio_high)],
                mark="D",
                colour=ORANGE,
                name="chosen, measured",
            )
        )
    # A loss of 0 or below cannot be shown on a logarithmic axis.
    series += [
        Series(
            x=[point.ratio],
            y=[point.loss],
            x_error=[(point.ratio_low, point.ratio_high)],
            mark="s",
            name=f"{point.name}, measured",
        )
        for point in record.compared
        if point.loss > 0 and not point.handed_out
    ]
    front = sorted((point.ratio, point.loss) for point in record.front if point.loss > 0)
    if front:
        x, y = (list(values) for values in zip(*front, strict=True))
        series.append(Series(x=x, y=y, line="--", mark="D", name="front, measured"))
    return Chart(
        x_label=_RATIO_LABEL,
        y_label=_LOSS_LABEL,
        y_log=True,
        series=series,
        rules=_budget(record, "x"),
    )


def _front(points: Sequence[CurvePoint], name: str, *, colour: str) -> Series:
    """A Pareto front; the dense plan has no loss, which a logarithmic axis cannot show."""
    shown = [point for point in points if point.loss > 0]
    x, y = [point.ratio for point in shown], [point.loss for point in shown]
    return Series(x=x, y=y, name=name, colour=colour, line="-")


def _budget(record: TuneRecord, axis: Literal["x", "y"]) -> list[Rule]:
    limit = record.limit_ratio
    if limit is None:
        return []
    return [Rule(axis=axis, at=limit, name=f"budget {record.latency_budget}")]


def staircase(curve: Staircase) -> Chart:
    """Latency against rank of one layer shape, with intervals, and the dense latency."""
    points = curve.points
    ranks = [point.form.rank for point in points]
    measured = [point for point in points if point.source == "measured"]
    widths = "+".join(map(str, curve.parts)) or curve.out_features
    interval = Band(
        x=ranks,
        low=[point.low_s * 1e3 for point in points],
        high=[point.high_s * 1e3 for point in points],
    )
    line = Series(x=ranks, y=[point.latency_s * 1e3 for point in points], line="-")
    marks = Series(
        x=[point.form.rank for point in measured],
        y=[point.latency_s * 1e3 for point in measured],
        mark=".",
        name="measured",
    )
    dense = Rule(axis="y", at=curve.dense_latency_s * 1e3, name="dense", colour=GREY, dashed=True)
    return Chart(
        title=f"{curve.in_features}x{widths}, {curve.tokens} tokens",
        x_label="rank",
        y_label="latency (ms)",
        y_from_zero=True,
        width=4.6,
        height=2.9,
        bands=[interval],
        series=[line, marks],
        rules=[dense],
    )


def heat_map(sites: Sequence[SiteRecord]) -> Chart:
    """Share of parameters removed by block (rows) and module (columns).

    Dense layers are hatched; `=64` marks a layer of a joint site of rank 64.
    """
    modules = list(dict.fromkeys(_module(site, name) for site in sites for name in site.layers))
    blocks = sorted({_block(site) for site in sites})
    cells = [
        Cell(
            x=modules.index(_module(site, name)),
            y=blocks.index(_block(site)),
            shade=None if site.form.is_dense else 1.0 - site.keep_ratio,
            text=_cell_text(site),
        )
        for site in sites
        for name in site.layers
    ]
    return Chart(
        cells=cells,
        x_ticks=modules,
        y_ticks=[str(block) if block >= 0 else "-" for block in blocks],
        y_label="block",
        height=0.9 + 0.32 * len(blocks),
    )


def _cell_text(site: SiteRecord) -> str:
    if site.form.is_dense:
        return str(site.form)
    return f"{'=' * (len(site.layers) > 1)}{site.form.rank}{site.form.suffix}"


def _block(site: SiteRecord) -> int:
    return -1 if site.block is None else site.block


def _module(site: SiteRecord, name: str) -> str:
    return name if site.block is None else name.split(f".{site.block}.", 1)[-1]


def agreement(sites: Sequence[SiteRecord]) -> Chart:
    """Predicted against measured latency of every site inside the network."""
    pairs = [
        (site.form.is_dense, site.predicted_latency_s * 1e3, site.measured_latency_s * 1e3)
        for site in sites
        if site.measured_latency_s
    ]
    factorized = [pair for pair in pairs if not pair[0]]
    dense = [pair for pair in pairs if pair[0]]
    top = max((measured for _, _, measured in pairs), default=1.0) * 1.1
    series = [
        Series(
            x=[predicted for _, predicted, _ in factorized],
            y=[measured for _, _, measured in factorized],
            name="factorized",
            mark="o",
        ),
        Series(
            x=[predicted for _, predicted, _ in dense],
            y=[measured for _, _, measured in dense],
            colour=ORANGE,
            name="dense",
            mark="s",
        ),
        Series(x=[0, top], y=[0, top], colour=GREY, line="-"),
    ]
    return Chart(
        x_label="predicted (ms)", y_label="measured in the network (ms)", series=series, width=4.2
    )


def waterfall(record: TuneRecord) -> Chart:
    """Milliseconds from the dense network to the compressed one, by group of sites."""
    bars, level = [], 0.0
    steps = waterfall_steps(record)
    for i, (_, value, total) in enumerate(steps):
        bottom = 0.0 if total else level
        colour = GREY if total else (GREEN if value < 0 else RED)
        text = f"{value:.3g}" if total else f"{value:+.3g}"
        bars.append(Bar(x=i, bottom=bottom, height=value, text=text, colour=colour))
        level = bottom + value
    names = [name for name, _, _ in steps]
    return Chart(bars=bars, x_ticks=names, y_label="latency (ms)", width=5.4, height=3.2)


def waterfall_steps(record: TuneRecord) -> list[tuple[str, float, bool]]:
    """(name, milliseconds, is a total): dense, saving by group, what the sum misses, compressed."""
    saved: dict[str, float] = {}
    for site in record.factorized:
        delta = site.predicted_latency_s - site.dense_latency_s
        saved[site.group] = saved.get(site.group, 0.0) + delta
    told = [(f"run in {record.runtime_dtype}", seconds) for seconds in _gained_by_dtype(record)]
    explained = sum(saved.values()) + sum(seconds for _, seconds in told)
    unexplained = record.latency_s - record.dense_latency_s - explained
    return [
        ("dense", record.dense_latency_s * 1e3, True),
        *((name, seconds * 1e3, False) for name, seconds in told),
        *((name, value * 1e3, False) for name, value in sorted(saved.items())),
        ("not predicted", unexplained * 1e3, False),
        ("compressed", record.latency_s * 1e3, True),
    ]


def _gained_by_dtype(record: TuneRecord) -> list[float]:
    """Seconds that the dense network takes more in the dtype it is run in; none in its own."""
    name = f"dense {record.runtime_dtype}"
    found = [point for point in record.compared if point.name == name]
    return [(point.ratio - 1.0) * record.dense_latency_s for point in found]


def rounds(record: TuneRecord) -> Chart:
    """Predicted and measured ratio of every round of the closed loop."""
    x = list(range(len(record.rounds)))
    measured = [(i, one.measured) for i, one in enumerate(record.rounds) if one.measured]
    series = [
        Series(x=x, y=[one.predicted_ratio for one in record.rounds], mark="o", name="predicted"),
        Series(
            x=[i for i, _ in measured],
            y=[ratio for _, (ratio, _, _) in measured],
            colour=ORANGE,
            mark="D",
            y_error=[(low, high) for _, (_, low, high) in measured],
            name="measured, 95 % interval",
        ),
    ]
    return Chart(
        x_label="round",
        y_label=_RATIO_LABEL,
        series=series,
        rules=_budget(record, "y"),
        x_ticks=[str(i + 1) for i in x],
        width=4.6,
        height=2.9,
    )


def comparison(records: Mapping[str, TuneRecord]) -> Chart:
    """Several tunings: the Pareto front of each, and where its chosen plan is."""
    colours = (BLUE, ORANGE, GREEN, RED, GREY)
    series = []
    for i, (name, record) in enumerate(records.items()):
        colour = colours[i % len(colours)]
        loss = record.solver.table_loss
        series.append(_front(record.pareto, name, colour=colour))
        series.append(Series(x=[record.ratio], y=[loss], colour=colour, mark="D"))
    return Chart(x_label=_RATIO_LABEL, y_label=_LOSS_LABEL, y_log=True, series=series, height=4.0)
