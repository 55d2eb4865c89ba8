"""Figures of the report as SVG text (matplotlib; Okabe–Ito palette, safe for colour blindness)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
Record = Mapping[str, Any]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float = 6.0, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25, linewidth=0.6)
    return figure, axes


def pareto(record: Record) -> str:
    """Predicted loss against latency ratio: the exact front, uniform plans, budget, chosen plan."""
    figure, axes = _axes()
    front = [p for p in record["pareto"] if p["loss"] > 0]
    axes.plot([p["ratio"] for p in front], [p["loss"] for p in front], color=BLUE, label="exact")
    uniform = record["uniform"]
    axes.plot(
        [p["ratio"] for p in uniform], [p["loss"] for p in uniform], color=GREY, ls="--",
        marker=".", label="uniform keep ratio",
    )  # fmt: skip
    limit = record["budget"].get("latency", "")
    if limit.endswith("x"):
        axes.axvline(float(limit[:-1]), color=RED, lw=1, label=f"budget {limit}")
    loss = record["solver"]["table_loss"]
    axes.plot(record["predicted_ratio"], loss, "o", color=BLUE, label="chosen, predicted")
    measured = record["measured_ratio"]
    if measured is not None:
        spread = [
            [measured - record["measured_ratio_low"]], [record["measured_ratio_high"] - measured]
        ]  # fmt: skip
        axes.errorbar(
            measured, loss, xerr=spread, fmt="D", color=ORANGE, capsize=3, label="chosen, measured"
        )
    axes.set(xlabel="latency / dense latency", ylabel="predicted loss increase", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def staircase(curve: Record) -> str:
    """Latency against rank of one layer shape, with intervals, and the dense latency."""
    figure, axes = _axes(4.6, 2.9)
    points = curve["points"]
    ranks = [p["rank"] for p in points]
    axes.fill_between(
        ranks, [p["low_s"] * 1e3 for p in points], [p["high_s"] * 1e3 for p in points],
        color=BLUE, alpha=0.2, lw=0,
    )  # fmt: skip
    axes.plot(ranks, [p["latency_s"] * 1e3 for p in points], color=BLUE, lw=1)
    measured = [p for p in points if p["source"] == "measured"]
    axes.plot(
        [p["rank"] for p in measured], [p["latency_s"] * 1e3 for p in measured], ".",
        color=BLUE, label="measured",
    )  # fmt: skip
    axes.axhline(curve["dense_latency_s"] * 1e3, color=GREY, ls="--", lw=1, label="dense")
    widths = "+".join(map(str, curve["parts"])) or curve["out_features"]
    title = f"{curve['in_features']}x{widths}, {curve['tokens']} tokens"
    axes.set(xlabel="rank", ylabel="latency (ms)", title=title, ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def heat_map(sites: Sequence[Record]) -> str:
    """keep_ratio by block (rows) and module (columns); dense hatched, `=64` shares its down."""
    modules = list(dict.fromkeys(_module(site, n) for site in sites for n in site["layers"]))
    blocks = sorted({site["block"] if site["block"] is not None else -1 for site in sites})
    figure, axes = _axes(6.0, 0.9 + 0.32 * len(blocks))
    axes.grid(False)
    cells = [(site, name) for site in sites for name in site["layers"]]
    for site, name in cells:
        x = modules.index(_module(site, name))
        y = blocks.index(site["block"] if site["block"] is not None else -1)
        dense = site["rank"] is None
        shade = 1.0 - site["keep_ratio"]
        axes.add_patch(_cell(x, y, dense, shade))
        text = "dense" if dense else f"{'=' * (len(site['layers']) > 1)}{site['rank']}"
        colour = "white" if not dense and shade > 0.65 else "black"
        axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set(
        xlim=(-0.5, len(modules) - 0.5), ylim=(len(blocks) - 0.5, -0.5), ylabel="block",
        xticks=range(len(modules)), yticks=range(len(blocks)),
    )  # fmt: skip
    axes.set_xticklabels(modules, rotation=25, ha="right", fontsize=8)
    axes.set_yticklabels([str(b) if b >= 0 else "-" for b in blocks])
    return _svg(figure)


def _cell(x: int, y: int, dense: bool, shade: float) -> Any:
    from matplotlib.patches import Rectangle

    face = "white" if dense else (1 - shade, 1 - 0.55 * shade, 1 - 0.3 * shade)
    return Rectangle(
        (x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor=GREY, lw=0.5,
        hatch="///" if dense else None, alpha=0.9,
    )  # fmt: skip


def _module(site: Record, name: str) -> str:
    return name.split(f".{site['block']}.", 1)[-1] if site["block"] is not None else name


def agreement(sites: Sequence[Record]) -> str:
    """Predicted against measured seconds of every site inside the network."""
    figure, axes = _axes(4.2, 3.6)
    pairs = [s for s in sites if s.get("measured_latency_s")]
    for chosen, colour, label in ((True, BLUE, "factorized"), (False, ORANGE, "dense")):
        some = [s for s in pairs if (s["rank"] is not None) == chosen]
        axes.plot(
            [s["predicted_latency_s"] * 1e3 for s in some],
            [s["measured_latency_s"] * 1e3 for s in some],
            "o" if chosen else "s", ms=4, color=colour, label=label,
        )  # fmt: skip
    top = max((s["measured_latency_s"] for s in pairs), default=1e-3) * 1.1e3
    axes.plot([0, top], [0, top], color=GREY, lw=1)
    axes.set(xlabel="predicted (ms)", ylabel="measured in the network (ms)")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def waterfall(record: Record) -> str:
    """Milliseconds from the dense network to the compressed one, by group of sites."""
    figure, axes = _axes(5.4, 3.2)
    steps = waterfall_steps(record)
    level = 0.0
    for i, (name, value, total) in enumerate(steps):
        bottom = 0.0 if total else level
        axes.bar(i, value, bottom=bottom, color=GREY if total else (GREEN if value < 0 else RED))
        axes.text(i, bottom + value, f"{value:+.3g}" if not total else f"{value:.3g}",
                  ha="center", va="bottom", fontsize=8)  # fmt: skip
        level = bottom + value
        steps[i] = (name, value, total)
    axes.set(ylabel="latency (ms)", xticks=range(len(steps)))
    axes.set_xticklabels([name for name, _, _ in steps], fontsize=8)
    return _svg(figure)


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


def rounds(record: Record) -> str:
    """Predicted and measured ratio of every round of the closed loop."""
    figure, axes = _axes(4.6, 2.9)
    items = record["rounds"]
    x = list(range(1, len(items) + 1))
    axes.plot(x, [r["predicted_ratio"] for r in items], "o", color=BLUE, label="predicted")
    low = [r["measured_ratio"] - r["measured_ratio_low"] for r in items]
    high = [r["measured_ratio_high"] - r["measured_ratio"] for r in items]
    axes.errorbar(
        x, [r["measured_ratio"] for r in items], yerr=[low, high], fmt="D", color=ORANGE,
        capsize=3, label="measured, 95 % interval",
    )  # fmt: skip
    limit = record["budget"].get("latency", "")
    if limit.endswith("x"):
        axes.axhline(float(limit[:-1]), color=RED, lw=1, label=f"budget {limit}")
    axes.set(xlabel="round", ylabel="latency / dense latency", xticks=x)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)
