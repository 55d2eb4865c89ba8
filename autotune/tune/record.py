"""The typed record of a tuning, built from what its stages found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.core.types import break_even_rank, chosen_units
from autotune.devices.specs import DTYPE_BYTES
from autotune.results.measured import Measured
from autotune.results.record import (
    BudgetUse,
    BuildPaths,
    Calibration,
    Cost,
    CurvePoint,
    LeftOut,
    PhaseRecord,
    Quality,
    RoundRecord,
    Sizes,
    SolverRecord,
    TuneRecord,
    UniformPoint,
)
from autotune.search.lagrangian import pareto_front
from autotune.search.problem import Option
from autotune.search.tables import live_bytes, site_bytes
from autotune.tune.builds import dense_artefact
from autotune.tune.context import Context
from autotune.tune.measuring import network_inputs
from autotune.tune.planner import Planner, Round
from autotune.tune.predicted import prediction_sources
from autotune.tune.site_records import node_latencies, site_records, staircases
from autotune.tune.stages import chosen_metric


def tune_record(
    context: Context,
    planner: Planner,
    *,
    final: Round,
    rounds: Sequence[Round],
    quality: Quality,
    calibration: Calibration,
    knobs: Mapping[str, float],
    cost: Cost,
) -> TuneRecord:
    """The record of the final round, without the hashes of the files that are written later."""
    request, measured = context.request, final.measured
    # Predicted before anything was built, so without corrections.
    predicted = planner.network.predict(final.allocation.ranks)
    sizes = _sizes(context, final)
    return TuneRecord(
        model=context.loaded.name,
        model_sha256=context.loaded.weights_sha256,
        task=context.loaded.task,
        device=context.fingerprint,
        fingerprint=context.fingerprint.id,
        backend=context.backend.name,
        dtype=context.dtype,
        predicted_from=() if measured else tuple(prediction_sources(context)),
        workload=request.workload,
        budget={name: limit.text for name, limit in request.budget.limits().items()},
        verdict=planner.verdict(final),
        dense_latency_s=final.judged.dense_latency_s,
        rest_latency_s=planner.network.rest_s,
        predicted_latency_s=predicted.latency_s,
        predicted_latency_low_s=predicted.low_s,
        predicted_latency_high_s=predicted.high_s,
        predicted_ratio=predicted.ratio,
        measured_latency_s=measured.latency_s if measured else None,
        measured_ratio=measured.ratio if measured else None,
        measured_ratio_low=measured.ratio_low if measured else None,
        measured_ratio_high=measured.ratio_high if measured else None,
        phases=_phases(planner, final),
        quality=quality,
        parameters=sizes.parameters,
        stored_bytes=sizes.stored_bytes,
        computed_bytes=sizes.computed_bytes,
        flops=sizes.flops,
        solver=_solver(context, planner, final),
        budgets=_budgets(planner, final),
        rounds=tuple(_round(planner, outcome) for outcome in rounds),
        pareto=_pareto(planner),
        uniform=_uniform(context, planner),
        builds=_builds(context, final),
        sites=site_records(context, planner, final, node_latencies(context, final)),
        left_out=tuple(
            LeftOut(name=name, reason=reason) for name, reason in context.sites.left_out.items()
        ),
        knobs=dict(knobs),
        calibration=calibration,
        cost=cost,
        staircases=staircases(context, planner),
    )


def _solver(context: Context, planner: Planner, final: Round) -> SolverRecord:
    allocation, request = final.allocation, context.request
    return SolverRecord(
        name=allocation.solver,
        loss=allocation.loss,
        table_loss=planner.table_loss(allocation.ranks),
        lower_bound=allocation.lower_bound,
        certified_gap=allocation.gap if allocation.lower_bound else None,
        metric=chosen_metric(context),
        factorizer=request.factorizer,
        allocator=request.chosen_allocator,
        storage=request.storage,
    )


def _budgets(planner: Planner, final: Round) -> dict[str, BudgetUse]:
    """Limit and predicted use of every budget; binding when less than 1 % is left of it."""
    resources = planner.problem({}, final.corrections, 0.0).resources
    costs = zip(resources, final.allocation.costs, strict=True)
    uses = {name: cost + planner.totals.rest[name] for name, cost in costs}
    uses["activation_bytes"] = max(
        live_bytes(unit, rank, planner.context.dtype)
        for unit, rank in chosen_units(planner.context.units, final.allocation.ranks)
    )
    return {
        name: BudgetUse(limit=limit, used=uses[name], binding=uses[name] > 0.99 * limit)
        for name, limit in planner.limits.items()
    }


def _phases(planner: Planner, final: Round) -> tuple[PhaseRecord, ...]:
    """Every phase as measured (or predicted), and as predicted before anything was built."""
    pairs = zip(planner.network.passes, final.judged.passes, strict=True)
    return tuple(
        PhaseRecord(
            name=timed.name,
            count=timed.count,
            latency_s=timed.latency_s,
            dense_latency_s=timed.dense_latency_s,
            ratio=timed.ratio,
            ratio_low=timed.ratio_low,
            ratio_high=timed.ratio_high,
            predicted_ratio=model.predict(final.allocation.ranks).ratio,
        )
        for model, timed in pairs
    )


def _builds(context: Context, final: Round) -> dict[str, BuildPaths]:
    """What `bench` times again in every phase, relative to the run folder."""
    if final.measured is None:
        return {}

    def relative(path: Path) -> str:
        return str(path.relative_to(context.folder.path))

    return {
        phase: BuildPaths(
            dense=relative(dense_artefact(context, phase)),
            compressed=relative(compressed),
            inputs=relative(network_inputs(context, phase)),
        )
        for phase, compressed in final.artefacts.items()
    }


@dataclass(frozen=True, kw_only=True)
class _ModelSizes:
    parameters: Sizes
    stored_bytes: Sizes
    computed_bytes: Sizes
    flops: Sizes


def _sizes(context: Context, final: Round) -> _ModelSizes:
    """Parameters, bytes and FLOPs of the whole model, dense and compressed.

    FLOPs count the factorizable layers. Stored bytes are on disk, computed bytes in memory at run
    time: a storage that packs the factors changes only the first.
    """
    dense = sum(p.numel() for p in context.loaded.model.parameters())
    size = DTYPE_BYTES[context.dtype]
    removed = flops = kept_flops = 0
    stored = float(dense * size)
    for site, rank in chosen_units(context.units, final.allocation.ranks):
        removed += site.shape().parameters - site.shape(rank).parameters
        stored -= site_bytes(site, None, context.dtype, "fp32")
        stored += site_bytes(site, rank, context.dtype, context.request.storage)
        flops += site.shape().flops
        kept_flops += site.shape(rank).flops
    kept = dense - removed
    return _ModelSizes(
        parameters=Sizes(dense=dense, compressed=kept),
        stored_bytes=Sizes(dense=dense * size, compressed=round(stored)),
        computed_bytes=Sizes(dense=dense * size, compressed=kept * size),
        flops=Sizes(dense=flops, compressed=kept_flops),
    )


def _round(planner: Planner, outcome: Round) -> RoundRecord:
    measured: Measured | None = outcome.measured
    return RoundRecord(
        predicted_ratio=outcome.predicted.ratio,
        measured_ratio=measured.ratio if measured else None,
        measured_ratio_low=measured.ratio_low if measured else None,
        measured_ratio_high=measured.ratio_high if measured else None,
        corrections=tuple(outcome.corrections),
        loss=outcome.allocation.loss,
        verdict=planner.verdict(outcome),
    )


def _pareto(planner: Planner) -> tuple[CurvePoint, ...]:
    """Predicted latency ratio against predicted loss, without any budget."""
    if "latency" not in planner.limits:
        return ()
    problem = planner.problem({}, planner.uncorrected, 0.0)
    latency = problem.resources.index("latency")

    def priced(options: tuple[Option, ...]) -> tuple[Option, ...]:
        return tuple(replace(o, costs=(o.costs[latency],)) for o in options)

    single = replace(
        problem,
        resources=("latency",),
        limits=(problem.limits[latency],),
        options=tuple(priced(options) for options in problem.options),
        joint=tuple(replace(j, options=priced(j.options)) for j in problem.joint),
    )
    dense, rest = planner.totals.dense["latency"], planner.totals.rest["latency"]
    front = pareto_front(single)
    return tuple(CurvePoint(ratio=(cost + rest) / dense, loss=loss) for cost, loss in front)


def _uniform(context: Context, planner: Planner) -> tuple[UniformPoint, ...]:
    """The same curve for plans that keep one share of the parameters at every site."""
    curve = []
    for percent in range(95, 25, -5):
        ranks: dict[str, int | None] = {}
        for site in context.sites.sites:
            most = percent / 100 * break_even_rank(site.in_features, site.out_features)
            fitting = [rank for rank in sorted(planner.errors[site.name]) if rank <= most]
            ranks[site.name] = fitting[-1] if fitting else None
        loss = planner.table_loss(ranks)
        ratio = planner.network.predict(ranks).ratio
        curve.append(UniformPoint(keep_ratio=percent / 100, ratio=ratio, loss=loss))
    return tuple(curve)
