"""Apply, measure, correct: the closed loop from a plan to one that holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autotune.compress.factors import Factors, build_layers
from autotune.compress.lowrank import LowRankLinear, replaced
from autotune.compress.onnx_checkpoint import GRAPHS
from autotune.compress.onnx_export import rewrite_low_rank
from autotune.core.errors import BudgetInfeasibleError
from autotune.core.types import digest
from autotune.predictor.network.model import NetworkModel, PassModel
from autotune.results.measured import Measured, MeasuredPass
from autotune.search.outer import Knobs, search_knobs
from autotune.search.problem import Allocation
from autotune.tune.builds import (
    artefact_key,
    checkpoint_artefact,
    dense_artefact,
    is_typed,
    typed_graph,
)
from autotune.tune.context import Context
from autotune.tune.measuring import measure_pass, network_inputs, network_policy
from autotune.tune.planner import Planner, Round

Ranks = Mapping[str, int | None]
# A plan this far below the latency limit gave away quality: correct the table upwards.
_SLACK = 0.015
_MAX_STEP = 1.25
_MAX_MARGIN = 0.03
# A measurement this far from its prediction is made again, and the one nearer to it taught from: a
# neighbour that stays for a whole measurement spoils it without widening its interval. What is
# handed out is measured afresh and never chosen so.
_SURPRISE = 0.05


def plan_layers(context: Context, factors: Factors, ranks: Ranks) -> dict[str, LowRankLinear]:
    """The low-rank layers of a plan for this run's model."""
    return build_layers(context.loaded.model, context.units, factors, ranks)


def find_knobs(context: Context, planner: Planner, factors_key: Mapping[str, Any]) -> Knobs:
    """Optuna over the outer knobs, on the true loss of the fixed search batch."""
    request = context.request
    if request.search.trials == 0 or request.chosen_allocator != "exact+optuna":
        return {}

    # Only where it was asked for: trials that run at the same time are not the same twice.
    workers = planner.evidence.places if request.search.jobs or request.machine.farm else 1

    def true_loss(allocation: Allocation) -> float:
        planner.evidence.judge([allocation.ranks], least=2 if workers == 1 else 1)
        return planner.evidence.true_loss(allocation.ranks)

    def surely_better(allocation: Allocation, other: Allocation) -> bool:
        return planner.evidence.surely_better(allocation.ranks, other.ranks)

    problem = planner.problem({}, planner.uncorrected, request.search.margin)
    key = digest([dict(factors_key), asdict(problem), request.seed])[:16]
    storage = context.folder.cache / "optuna.sqlite"
    with context.reporter.stage("search the outer knobs") as advance:
        return search_knobs(
            context.sites.sites, planner.solve, true_loss, surely_better,
            trials=request.search.trials,
            storage=storage, name=key, seed=request.seed, workers=workers,
            progress=advance,
        )  # fmt: skip


def build_artefact(
    context: Context, run: str, factors: Factors, factors_key: Mapping[str, Any], ranks: Ranks
) -> Path:
    """The compressed model as the backend runs it in one pass."""
    layers = plan_layers(context, factors, ranks)
    chosen = {name: rank for name, rank in ranks.items() if rank is not None}
    if context.backend.runs == "checkpoint" or is_typed(context):
        with replaced(context.loaded.model, layers):
            if context.backend.runs == "checkpoint":
                return checkpoint_artefact(context, "compressed", chosen, factors_key)
            return typed_graph(context, run, "compressed", chosen, factors_key)
    dense = dense_artefact(context, run)
    metadata = {
        "autotune.ranks": {name: layer.rank for name, layer in layers.items()},
        "autotune.device": context.device.reported_name,
        "autotune.backend": context.backend.name,
    }
    key = {**factors_key, "dense": artefact_key(context, dense), "ranks": chosen}

    def build(path: Path) -> None:
        path.mkdir()
        rewrite_low_rank(dense, layers, path / GRAPHS[run], metadata)

    return context.folder.stage("compressed", key, "", build)[0] / GRAPHS[run]


def measure_plan(
    context: Context, network: NetworkModel, allocation: Allocation,
    artefacts: Mapping[str, Path], label: str, final: bool = False,
) -> Round:  # fmt: skip
    """Time every pass of the compressed model, in `artefacts`, in turn with the dense one.

    `network` is the corrected model that the plan was solved with.
    """
    policy = network_policy(context.request.machine.measure_seconds, final=final)

    def measure(name: str, count: int) -> MeasuredPass:
        paths = (dense_artefact(context, name), artefacts[name])
        inputs = network_inputs(context, name)

        def compute() -> dict[str, Any]:
            with context.reporter.stage(f"{label}, {name}") as advance:
                return asdict(measure_pass(context.runner, name, paths, inputs, policy, advance))

        key = {
            "label": label,
            "fingerprint": context.fingerprint.id,
            "artefact": artefact_key(context, artefacts[name]),
            "inputs": inputs.name,
        }
        return replace(
            MeasuredPass(**context.folder.json_stage("timing", key, compute)), count=count
        )

    passes = tuple(measure(one.name, one.count) for one in network.passes)
    return Round(
        allocation=allocation,
        network=network,
        measured=Measured(passes=passes),
        artefacts=artefacts,
    )


def predict_plan(
    context: Context, planner: Planner, knobs: Knobs, factors: Factors,
    factors_key: Mapping[str, Any],
) -> Round:  # fmt: skip
    """The plan for a device that is elsewhere: solved once, built, and not measured."""
    with context.reporter.stage("choose the ranks") as advance:
        planner.evidence.progress = advance
        allocation = planner.solve(knobs)
    whole = build_artefact(context, "prefill", factors, factors_key, allocation.ranks)
    return Round(
        allocation=allocation, network=planner.network, measured=None, artefacts={"prefill": whole}
    )


def corrected(model: PassModel, ranks: Ranks, measured: MeasuredPass) -> float:
    """The correction of a pass that its measurement proves, one bounded step at a time.

    A prediction inside the measured interval stands; outside, it is moved to the interval's near
    end. On a busy machine one wild measurement once sent the next plan to half the parameters, so
    a step is at most `_MAX_STEP`.
    """
    predicted = model.predict(ranks).ratio
    proven = min(max(predicted, measured.ratio_low), measured.ratio_high)
    factor = max(1.0 - proven, 1e-6) / max(1.0 - predicted, 1e-6)
    return model.correction * min(max(factor, 1.0 / _MAX_STEP), _MAX_STEP)


def surprise(outcome: Round) -> float:
    """How far the measured ratio is from the predicted one."""
    return abs(outcome.judged.ratio - outcome.predicted.ratio)


def run_loop(
    context: Context, planner: Planner, factors: Factors, factors_key: Mapping[str, Any],
    knobs: Knobs,
) -> list[Round]:  # fmt: skip
    """Solve, build and measure until the budget holds without waste, at most `rounds` times."""
    rounds: list[Round] = []
    corrections, margin = planner.uncorrected, context.request.search.margin
    seen: set[str] = set()
    for number in range(context.request.search.rounds):
        try:
            with context.reporter.stage("choose the ranks") as advance:
                planner.evidence.progress = advance
                allocation = planner.solve(knobs, corrections, margin)
        except BudgetInfeasibleError:
            if not rounds:
                raise
            break
        plan = digest(dict(allocation.ranks))
        if plan in seen:
            break
        seen.add(plan)
        artefacts = {
            run: build_artefact(context, run, factors, factors_key, allocation.ranks)
            for run in context.request.workload.passes
        }
        network = planner.network.corrected(corrections)
        label = f"measure round {number + 1}"
        outcome = measure_plan(context, network, allocation, artefacts, label)
        if "latency" in planner.limits and surprise(outcome) > _SURPRISE:
            again = measure_plan(context, network, allocation, artefacts, f"{label} again")
            outcome = min(outcome, again, key=surprise)
        rounds.append(outcome)
        if "latency" not in planner.limits:
            break
        if 0.0 <= planner.target(outcome) - outcome.judged.ratio_high <= _SLACK:
            break
        pairs = zip(network.passes, outcome.judged.passes, strict=True)
        corrections = tuple(corrected(one, allocation.ranks, timed) for one, timed in pairs)
        spread = outcome.judged.ratio_high / outcome.judged.ratio - 1.0
        margin = min(max(context.request.search.margin, spread), _MAX_MARGIN)
    return rounds


def best_rounds(planner: Planner, rounds: list[Round]) -> list[Round]:
    """Rounds in order of preference: surely within budget by least loss, then the fastest."""
    met = [r for r in rounds if planner.surely_within(r)]
    missed = [r for r in rounds if not planner.surely_within(r)]
    met.sort(key=lambda r: r.allocation.loss)
    missed.sort(key=lambda r: r.judged.ratio)
    return [*met, *missed]
