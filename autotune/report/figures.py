"""The figures of a run, of a layer and of several runs, from records; drawn by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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

Record = Mapping[str, Any]


def run_figures(record: Record) -> dict[str, list[Chart]]:
    """Every figure of a run by its name; those of what was not measured are left out."""
    sites = [site for site in record["sites"] if "group" in site]
    found = {"pareto": [pareto(record)], "heat_map": [heat_map(sites)]}
    found["waterfall"] = [waterfall(record)]
    if record["measured_ratio"] is not None:
        found |= {"agreement": [agreement(sites)], "rounds": [rounds(record)]}
    return found | {"staircases": [staircase(curve) for curve in record["staircases"]]}


def pareto(record: Record) -> Chart:
    """Predicted loss against latency ratio: the exact front, uniform plans, budget, chosen plan."""
    front = [p for p in record["pareto"] if p["loss"] > 0]
    uniform = record["uniform"]
    loss = record["solver"]["table_loss"]
    series = [
        Series(
            x=[p["ratio"] for p in front], y=[p["loss"] for p in front], name="exact", line="-"
        ),
        Series(
            x=[p["ratio"] for p in uniform], y=[p["loss"] for p in uniform], line="--", mark=".",
            name="uniform keep ratio", colour=GREY,
        ),
        Series(x=[record["predicted_ratio"]], y=[loss], mark="o", name="chosen, predicted"),
    ]  # fmt: skip
    if record["measured_ratio"] is not None:
        ends = (record["measured_ratio_low"], record["measured_ratio_high"])
        series.append(
            Series(
                x=[record["measured_ratio"]], y=[loss], x_error=[ends], mark="D", colour=ORANGE,
                name="chosen, measured",
            )
        )  # fmt: skip
    return Chart(
        x_label="latency / dense latency", y_label="predicted loss increase", y_log=True,
        series=series, rules=_budget(record, "x"),
    )  # fmt: skip


def _budget(record: Record, axis: Any) -> list[Rule]:
    limit = record["budget"].get("latency", "")
    if not limit.endswith("x"):
        return []
    return [Rule(axis=axis, at=float(limit[:-1]), name=f"budget {limit}")]


def staircase(curve: Record) -> Chart:
    """Latency against rank of one layer shape, with intervals, and the dense latency."""
    points = curve["points"]
    ranks = [p["rank"] for p in points]
    measured = [p for p in points if p["source"] == "measured"]
    dense_ms = curve["dense_latency_s"] * 1e3
    widths = "+".join(map(str, curve["parts"])) or curve["out_features"]
    return Chart(
        title=f"{curve['in_features']}x{widths}, {curve['tokens']} tokens", x_label="rank",
        y_label="latency (ms)", y_from_zero=True, width=4.6, height=2.9,
        bands=[
            Band(
                x=ranks, low=[p["low_s"] * 1e3 for p in points],
                high=[p["high_s"] * 1e3 for p in points],
            )
        ],
        series=[
            Series(x=ranks, y=[p["latency_s"] * 1e3 for p in points], line="-"),
            Series(
                x=[p["rank"] for p in measured], y=[p["latency_s"] * 1e3 for p in measured],
                mark=".", name="measured",
            ),
        ],
        rules=[Rule(axis="y", at=dense_ms, name="dense", colour=GREY, dashed=True)],
    )  # fmt: skip


def heat_map(sites: Sequence[Record]) -> Chart:
    """keep_ratio by block (rows) and module (columns); dense hatched, `=64` shares its down."""
    modules = list(dict.fromkeys(_module(site, n) for site in sites for n in site["layers"]))
    blocks = sorted({_block(site) for site in sites})
    cells = [
        Cell(
            x=modules.index(_module(site, name)), y=blocks.index(_block(site)),
            shade=None if site["rank"] is None else 1.0 - site["keep_ratio"],
            text="dense" if site["rank"] is None
            else f"{'=' * (len(site['layers']) > 1)}{site['rank']}",
        )
        for site in sites
        for name in site["layers"]
    ]  # fmt: skip
    return Chart(
        cells=cells, x_ticks=modules, y_ticks=[str(b) if b >= 0 else "-" for b in blocks],
        y_label="block", height=0.9 + 0.32 * len(blocks),
    )  # fmt: skip


def _block(site: Record) -> int:
    return -1 if site["block"] is None else int(site["block"])


def _module(site: Record, name: str) -> str:
    return name.split(f".{site['block']}.", 1)[-1] if site["block"] is not None else name


def agreement(sites: Sequence[Record]) -> Chart:
    """Predicted against measured seconds of every site inside the network."""
    pairs = [s for s in sites if s.get("measured_latency_s")]
    series = []
    for chosen, colour, label in ((True, BLUE, "factorized"), (False, ORANGE, "dense")):
        some = [s for s in pairs if (s["rank"] is not None) == chosen]
        series.append(
            Series(
                x=[s["predicted_latency_s"] * 1e3 for s in some],
                y=[s["measured_latency_s"] * 1e3 for s in some], colour=colour, name=label,
                mark="o" if chosen else "s",
            )
        )  # fmt: skip
    top = max((s["measured_latency_s"] for s in pairs), default=1e-3) * 1.1e3
    same = Series(x=[0, top], y=[0, top], colour=GREY, line="-")
    return Chart(
        x_label="predicted (ms)", y_label="measured in the network (ms)", series=[*series, same],
        width=4.2,
    )  # fmt: skip


def waterfall(record: Record) -> Chart:
    """Milliseconds from the dense network to the compressed one, by group of sites."""
    bars, level = [], 0.0
    for i, (_, value, total) in enumerate(waterfall_steps(record)):
        bottom = 0.0 if total else level
        colour = GREY if total else (GREEN if value < 0 else RED)
        text = f"{value:.3g}" if total else f"{value:+.3g}"
        bars.append(Bar(x=i, bottom=bottom, height=value, text=text, colour=colour))
        level = bottom + value
    names = [name for name, _, _ in waterfall_steps(record)]
    return Chart(bars=bars, x_ticks=names, y_label="latency (ms)", width=5.4, height=3.2)


def waterfall_steps(record: Record) -> list[tuple[str, float, bool]]:
    """(name, milliseconds, is a total): dense, saving by group, what the sum misses, measured."""
    scale = 1e3
    dense = record["dense_latency_s"]
    reached = record["measured_latency_s"] or record["predicted_latency_s"]
    saved: dict[str, float] = {}
    for site in record["sites"]:
        if site["rank"] is not None:
            delta = site["predicted_latency_s"] - site["dense_latency_s"]
            saved[site["group"]] = saved.get(site["group"], 0.0) + delta
    unexplained = reached - dense - sum(saved.values())
    return [
        ("dense", dense * scale, True),
        *((name, value * scale, False) for name, value in sorted(saved.items())),
        ("not predicted", unexplained * scale, False),
        ("compressed", reached * scale, True),
    ]


def rounds(record: Record) -> Chart:
    """Predicted and measured ratio of every round of the closed loop."""
    items = record["rounds"]
    x = list(range(len(items)))
    measured = Series(
        x=x, y=[r["measured_ratio"] for r in items], colour=ORANGE, mark="D",
        y_error=[(r["measured_ratio_low"], r["measured_ratio_high"]) for r in items],
        name="measured, 95 % interval",
    )  # fmt: skip
    predicted = Series(x=x, y=[r["predicted_ratio"] for r in items], mark="o", name="predicted")
    return Chart(
        x_label="round", y_label="latency / dense latency", series=[predicted, measured],
        rules=_budget(record, "y"), x_ticks=[str(i + 1) for i in x], width=4.6, height=2.9,
    )  # fmt: skip


def comparison(records: Mapping[str, Record]) -> Chart:
    """Several runs: where each is on latency ratio and quality, and its Pareto front of plans."""
    colours = (BLUE, ORANGE, GREEN, RED, GREY)
    series = []
    for i, (name, record) in enumerate(records.items()):
        colour = colours[i % len(colours)]
        front = [p for p in record["pareto"] if p["loss"] > 0]
        loss = record["solver"]["table_loss"]
        series.append(
            Series(
                x=[p["ratio"] for p in front], y=[p["loss"] for p in front], colour=colour,
                line="-", name=name,
            )
        )  # fmt: skip
        ratio = record["measured_ratio"] or record["predicted_ratio"]
        series.append(Series(x=[ratio], y=[loss], colour=colour, mark="D"))
    return Chart(
        x_label="latency / dense latency", y_label="predicted loss increase", y_log=True,
        series=series, height=4.0,
    )  # fmt: skip
