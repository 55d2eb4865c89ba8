"""How well random plans of mixed forms are predicted: their loss, and their latency.

    python benchmarks/form_plans.py --work WORK [--model DIR] [--backend onnxruntime-cpu]

Plans are drawn in three groups of equal predicted latency (within 3 %): every site takes one of its
forms that keep a quarter of the parameters or more, at random, until the whole is at the latency of
the group. For each of `--plans` (60 in all) the loss that the table predicts after the sensitivity
pass stands beside the true one on the search data, and the rank correlation of both is printed by
group. `--timed` of them (12) are predicted after their layers were measured and before anything is
built, then built and timed beside the dense network. `--model` is a folder with heldout.txt, of
which the first half calibrates; without it the embedded model is taken. Rows that WORK/rows.jsonl
holds are not run again. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from autotune.api import make_request
from autotune.core.forms import Form, Plan
from autotune.core.layers import Site
from autotune.core.progress.terminal import TerminalReporter
from autotune.tuning.decisions import guessed
from autotune.tuning.opening import open_tuning
from autotune.tuning.planner import Planner
from autotune.tuning.session import Tuning

_GROUPS = 3
_NEAR = 0.03
_LEAST_KEPT = 0.25
_JOINT_SHARE = 0.3


def main() -> None:
    """Draw, judge, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backend", default="onnxruntime-cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--factors", default="auto")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--isl", type=int, default=128)
    parser.add_argument("--plans", type=int, default=60)
    parser.add_argument("--timed", type=int, default=12)
    parser.add_argument("--sensitivity-rounds", type=int, default=1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    journal = options.work / "rows.jsonl"
    known = {}
    if journal.is_file():
        rows = [json.loads(line) for line in journal.read_text().splitlines()]
        known = {(row["group"], row["number"]): row for row in rows}
    with open_tuning(_request(options), TerminalReporter()) as tuning:
        tuning.search()
        for row in _rows(tuning, options, known=known):
            known[row["group"], row["number"]] = row
            with journal.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(json.dumps(_summary(list(known.values()), options)))


def _request(options: argparse.Namespace) -> Any:
    given: dict[str, Any] = {
        "latency_budget": "0.99x",
        "backend": options.backend,
        "precision": options.precision,
        "factors": options.factors,
        "batch_size": options.batch_size,
        "isl": options.isl,
        "trials": 0,
        "sensitivity_rounds": options.sensitivity_rounds,
        "database": options.work / "latency.sqlite",
    }
    if options.model:
        text = (options.model / "heldout.txt").read_text().splitlines()
        path = options.work / "calibration.txt"
        path.write_text("\n".join(text[: len(text) // 2]))
        given["calibration"] = path
    model = str(options.model) if options.model else None
    return make_request(model, output=options.work / "out", flat=given)


def _rows(
    tuning: Tuning, options: argparse.Namespace, *, known: Mapping[Any, Any]
) -> Iterator[dict[str, Any]]:
    """Rows that are not known, group by group."""
    planner = tuning.planner
    low, high = planner.least_ratio(), planner.network.predict({}).ratio
    each, timed = options.plans // _GROUPS, options.timed // _GROUPS
    for group in range(_GROUPS):
        target = low + (high - low) * (group + 1) / (_GROUPS + 1)
        draw = random.Random(group)
        for number in range(each):
            plan = _drawn(planner, draw, target=target)
            if (group, number) not in known:
                row = {"group": group, "number": number, "target": target}
                yield {**row, **_row(tuning, plan, timed=number < timed)}


def _drawn(planner: Planner, draw: random.Random, *, target: float) -> Plan:
    """A random plan whose predicted latency is within 3 % of `target`."""
    while True:
        joint = [site for site in planner.model.joint if draw.random() < _JOINT_SHARE]
        covered = {name for site in joint for name in site.layers}
        sites = [*(s for s in planner.model.single if s.name not in covered), *joint]
        plan = {site.name: _form(planner, site, draw=draw) for site in sites}
        found = _walked(planner, plan, sites=sites, draw=draw, target=target)
        if found is not None:
            return found


def _walked(
    planner: Planner,
    plan: dict[str, Form],
    *,
    sites: Sequence[Site],
    draw: random.Random,
    target: float,
) -> Plan | None:
    """The plan after random changes that bring it nearer; None where it does not arrive."""
    ratio = planner.network.predict(plan).ratio
    for _ in range(400):
        if abs(ratio / target - 1) <= _NEAR:
            return plan
        site = draw.choice(sites)
        changed = {**plan, site.name: _form(planner, site, draw=draw)}
        other = planner.network.predict(changed).ratio
        if abs(other - target) < abs(ratio - target):
            plan, ratio = changed, other
    return None


def _form(planner: Planner, site: Site, *, draw: random.Random) -> Form:
    """One of the forms of a site that keep enough of it; of a joint site no dense one."""
    least = _LEAST_KEPT * site.shape().parameters
    forms = [
        form
        for form in planner.errors[site.name]
        if site.shape(form).parameters >= least and not (form.is_dense and site.members)
    ]
    by_precision = sorted({form.precision for form in forms})
    precision = draw.choice(by_precision)
    return draw.choice([form for form in forms if form.precision == precision])


def _row(tuning: Tuning, plan: Plan, *, timed: bool) -> dict[str, Any]:
    losses = tuning.planner.evidence.losses
    row: dict[str, Any] = {
        "predicted_loss": tuning.planner.table_loss(plan),
        "loss": losses.true_loss(plan) - losses.true_loss({}) + tuning.planner.dtype_loss,
        "table_ratio": tuning.planner.network.predict(plan).ratio,
        "forms": _counts(plan),
    }
    if timed:
        loop = tuning._loop
        shapes = guessed(loop.planner.network, plan)
        if shapes:
            loop = loop.having_timed(shapes)
        predicted = loop.planner.network.predict(plan)
        measured = loop.measured_plan(plan, name=f"plan {row['predicted_loss']:.6g}")
        row |= {
            "predicted_ratio": predicted.ratio,
            "ratio": measured.judged.ratio,
            "ratio_low": measured.judged.ratio_low,
            "ratio_high": measured.judged.ratio_high,
        }
    return row


def _counts(plan: Plan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for form in plan.values():
        kind = str(form) if form.is_dense else f"rank{form.suffix}"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _summary(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    groups = {}
    print("| group | latency | plans | loss, least to largest | rank correlation |")
    print("|---|---|---|---|---|")
    for group in range(_GROUPS):
        found = [row for row in rows if row["group"] == group]
        predicted, true = ([row[key] for row in found] for key in ("predicted_loss", "loss"))
        correlation = float(spearmanr(predicted, true).statistic)
        groups[str(group)] = correlation
        print(
            f"| {group} | {found[0]['target']:.3f} | {len(found)} | {min(true):.4g} to "
            f"{max(true):.4g} | {correlation:.3f} |"
        )
    apart = [abs(row["predicted_ratio"] / row["ratio"] - 1) for row in rows if "ratio" in row]
    return {
        "model": str(options.model or "embedded"),
        "backend": options.backend,
        "plans": len(rows),
        "rank_correlation": groups,
        "timed": len(apart),
        "latency_error_median": statistics.median(apart) if apart else None,
        "latency_error_worst": max(apart, default=None),
    }


if __name__ == "__main__":
    main()
