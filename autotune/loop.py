"""Apply, measure, correct: the closed loop from a plan to one that holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.compress.factors import Factors, build_layers
from autotune.compress.lowrank import LowRankLinear, replaced
from autotune.compress.onnx_export import rewrite_low_rank
from autotune.errors import BudgetInfeasibleError
from autotune.measuring import network_inputs, network_policy, network_subject, time_subjects
from autotune.planner import Planner, Round
from autotune.search.outer import Knobs, search_knobs
from autotune.search.problem import Allocation
from autotune.stages import ONNX_NAME, Context, artefact_key, checkpoint_artefact
from autotune.types import digest

Ranks = Mapping[str, int | None]
# A plan this far below the latency limit gave away quality: correct the table upwards.
_SLACK = 0.015
_MAX_STEP = 1.25
_MAX_MARGIN = 0.03


def plan_layers(context: Context, factors: Factors, ranks: Ranks) -> dict[str, LowRankLinear]:
    """The low-rank layers of a plan for this run's model."""
    return build_layers(context.loaded.model, context.units, factors, ranks)


def find_knobs(context: Context, planner: Planner, factors_key: Mapping[str, Any]) -> Knobs:
    """Optuna over the outer knobs, on the true loss of the fixed search batch."""
    request = context.request
    if request.trials == 0 or request.chosen_allocator != "exact+optuna":
        return {}

    def true_loss(allocation: Allocation) -> float:
        return planner.evidence.true_loss(allocation.ranks)

    def surely_better(allocation: Allocation, other: Allocation) -> bool:
        return planner.evidence.surely_better(allocation.ranks, other.ranks)

    problem = planner.problem({}, 1.0, request.margin)
    key = digest([dict(factors_key), dataclasses.asdict(problem), request.seed])[:16]
    storage = context.folder.cache / "optuna.sqlite"
    with context.reporter.stage("search the outer knobs") as advance:
        return search_knobs(
            context.sites.sites, planner.solve, true_loss, surely_better, trials=request.trials,
            storage=storage, name=key, seed=request.seed, progress=advance,
        )  # fmt: skip


def build_artefact(
    context: Context, dense: Path, factors: Factors, factors_key: Mapping[str, Any], ranks: Ranks
) -> Path:
    """The compressed model as the backend runs it."""
    layers = plan_layers(context, factors, ranks)
    chosen = {name: rank for name, rank in ranks.items() if rank is not None}
    if context.backend.name.startswith("torch"):
        with replaced(context.loaded.model, layers):
            return checkpoint_artefact(context, "compressed", chosen, factors_key)
    metadata = {
        "autotune.ranks": {name: layer.rank for name, layer in layers.items()},
        "autotune.device": context.device.reported_name,
        "autotune.backend": context.backend.name,
    }
    key = {**factors_key, "dense": artefact_key(context, dense), "ranks": chosen}

    def build(path: Path) -> None:
        path.mkdir()
        rewrite_low_rank(dense, layers, path / ONNX_NAME, metadata)

    return context.folder.stage("compressed", key, "", build)[0] / ONNX_NAME


def measure_plan(
    context: Context, planner: Planner, allocation: Allocation, dense: Path, artefact: Path,
    correction: float, label: str, final: bool = False,
) -> Round:  # fmt: skip
    """Time the compressed model in turn with the dense one."""
    network = dataclasses.replace(planner.network, correction=correction)

    def compute() -> dict[str, Any]:
        subjects = [network_subject(path, network_inputs(context)) for path in (dense, artefact)]
        policy = network_policy(context.request.measure_seconds, final=final)
        with context.reporter.stage(label) as advance:
            return dataclasses.asdict(time_subjects(context.runner, subjects, policy, advance))

    key = {
        "label": label,
        "fingerprint": context.fingerprint.id,
        "artefact": artefact_key(context, artefact),
        "inputs": network_inputs(context).name,
    }
    timing = context.folder.json_stage("timing", key, compute)
    return Round(
        allocation=allocation,
        predicted=network.predict(allocation.ranks),
        dense_latency_s=timing["latencies_s"][0],
        measured_latency_s=timing["latencies_s"][1],
        ratio=timing["ratios"][1],
        ratio_low=timing["ratio_lows"][1],
        ratio_high=timing["ratio_highs"][1],
        correction=correction,
        artefact=artefact,
    )


def corrected(outcome: Round) -> float:
    """The correction that the measurement proves, one bounded step at a time.

    A prediction inside the measured interval stands; outside, it is moved to the interval's near
    end. On a busy machine one wild measurement once sent the next plan to half the parameters, so
    a step is at most `_MAX_STEP`.
    """
    proven = min(max(outcome.predicted.ratio, outcome.ratio_low), outcome.ratio_high)
    factor = max(1.0 - proven, 1e-6) / max(1.0 - outcome.predicted.ratio, 1e-6)
    return outcome.correction * min(max(factor, 1.0 / _MAX_STEP), _MAX_STEP)


def run_loop(
    context: Context, planner: Planner, factors: Factors, factors_key: Mapping[str, Any],
    dense: Path, knobs: Knobs,
) -> list[Round]:  # fmt: skip
    """Solve, build and measure until the budget holds without waste, at most `rounds` times."""
    rounds: list[Round] = []
    correction, margin = 1.0, context.request.margin
    seen: set[str] = set()
    for number in range(context.request.rounds):
        try:
            with context.reporter.stage("choose the ranks") as advance:
                planner.evidence.progress = advance
                allocation = planner.solve(knobs, correction, margin)
        except BudgetInfeasibleError:
            if not rounds:
                raise
            break
        plan = digest(dict(allocation.ranks))
        if plan in seen:
            break
        seen.add(plan)
        artefact = build_artefact(context, dense, factors, factors_key, allocation.ranks)
        outcome = measure_plan(
            context, planner, allocation, dense, artefact, correction,
            f"measure round {number + 1}",
        )  # fmt: skip
        rounds.append(outcome)
        if "latency" not in planner.limits:
            break
        if 0.0 <= planner.target(outcome) - outcome.ratio_high <= _SLACK:
            break
        correction = corrected(outcome)
        spread = outcome.ratio_high / outcome.ratio - 1.0
        margin = min(max(context.request.margin, spread), _MAX_MARGIN)
    return rounds


def best_rounds(planner: Planner, rounds: list[Round]) -> list[Round]:
    """Rounds in order of preference: surely within budget by least loss, then the fastest."""
    met = [r for r in rounds if planner.surely_within(r)]
    missed = [r for r in rounds if not planner.surely_within(r)]
    met.sort(key=lambda r: r.allocation.loss)
    missed.sort(key=lambda r: r.ratio)
    return [*met, *missed]
