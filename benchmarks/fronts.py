"""A front of budgets beside the uniform plans at the same latencies, all measured in one run.

    python benchmarks/fronts.py --work WORK [--model DIR] [--backend onnxruntime-cpu] [--count 8]

For `--count` latencies between the least that is of use and the dense model's, the best plan is
built, timed and judged, and beside it the uniform plans that a user would otherwise pick: the dense
model in every precision, and one keep ratio for all layers at that latency. Printed is, for every
budget, the loss of the plan and the least loss of a uniform one that is no slower; a plan that a
uniform one beats on both axes would be replaced by it, and is counted. `--model` is a folder with
heldout.txt, of which the first half calibrates and the last sixteenth judges. What was built and
timed is kept in WORK, so a run that was cut continues. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.api import make_request
from autotune.core.progress.terminal import TerminalReporter
from autotune.tuning.opening import open_tuning
from autotune.tuning.reference_points import references
from autotune.tuning.rounds import Round
from autotune.tuning.session import Tuning


def main() -> None:
    """Tune once, measure both fronts, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backend", default="onnxruntime-cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--factors", default="auto")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--isl", type=int, default=128)
    parser.add_argument("--phase", default="prefill")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--sensitivity-rounds", type=int, default=1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    with open_tuning(_request(options), TerminalReporter()) as tuning:
        tuning.knobs = tuning.search()
        tuning.map_front()
        uniform = _uniform(tuning)
        rows = [_row(tuning, one, name=name, uniform=uniform) for name, one in tuning.front.items()]
        points = {name: _point(tuning, one) for name, one in uniform.items()}
    _print(rows)
    summary = {
        "model": str(options.model or "embedded"),
        "backend": options.backend,
        "budgets": len(rows),
        "beaten_by_uniform": sum(row["beaten"] for row in rows),
        "strictly_better": sum(row["strictly_better"] for row in rows),
        "rows": rows,
        "uniform": points,
    }
    print(json.dumps(summary))


def _request(options: argparse.Namespace) -> Any:
    given: dict[str, Any] = {
        "latency_budget": "0.99x",
        "backend": options.backend,
        "precision": options.precision,
        "factors": options.factors,
        "batch_size": options.batch_size,
        "isl": options.isl,
        "phase": options.phase,
        "front": options.count,
        "trials": 0,
        "sensitivity_rounds": options.sensitivity_rounds,
        "database": options.work / "latency.sqlite",
    }
    if options.model:
        lines = (options.model / "heldout.txt").read_text().splitlines()
        parts = {
            "calibration": lines[: len(lines) // 2],
            "evaluation": lines[15 * len(lines) // 16 :],
        }
        for name, part in parts.items():
            given[name] = options.work / f"{name}.txt"
            given[name].write_text("\n".join(part))
    model = str(options.model) if options.model else None
    return make_request(model, output=options.work / "out", flat=given)


def _uniform(tuning: Tuning) -> dict[str, Round]:
    """Uniform plans at the latency of every plan of the front, by name; each is measured once."""
    found: dict[str, Round] = {}
    loop = tuning._loop
    for one in tuning.front.values():
        for reference in references(loop.planner, ratio=one.judged.ratio):
            if reference.name not in found:
                found[reference.name] = loop.measured_plan(reference.plan, name=reference.name)
    return found


def _point(tuning: Tuning, one: Round) -> dict[str, float]:
    return {
        "ratio": one.judged.ratio,
        "ratio_high": one.judged.ratio_high,
        "loss": tuning.search_loss(one),
        "quality": tuning.judge(one).compressed,
    }


def _row(tuning: Tuning, one: Round, *, name: str, uniform: Mapping[str, Round]) -> dict[str, Any]:
    """A plan of the front, and the best uniform one that is no slower."""
    own = _point(tuning, one)
    others = {key: _point(tuning, other) for key, other in uniform.items()}
    no_slower = {k: point for k, point in others.items() if point["ratio"] <= own["ratio"]}
    best = min(no_slower, key=lambda key: no_slower[key]["loss"], default=None)
    least = no_slower[best]["loss"] if best else None
    return {
        "name": name,
        **own,
        "predicted_ratio": tuning.planner.network.predict(one.allocation.plan).ratio,
        "uniform": best,
        "uniform_ratio": no_slower[best]["ratio"] if best else None,
        "uniform_loss": least,
        "uniform_quality": no_slower[best]["quality"] if best else None,
        "beaten": least is not None and least < own["loss"],
        "strictly_better": least is None or own["loss"] < least,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    print(
        "| latency | loss | quality | best uniform plan no slower | its latency | loss | quality |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: row["ratio"]):
        other = (
            f"{row['uniform']} | {row['uniform_ratio']:.3f} | {row['uniform_loss']:.4g} | "
            f"{row['uniform_quality']:.4f}"
            if row["uniform"]
            else "none | | | "
        )
        print(f"| {row['ratio']:.3f} | {row['loss']:.4g} | {row['quality']:.4f} | {other} |")


if __name__ == "__main__":
    main()
