"""The typed record of a tuning, built from what its stages found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.forms import DENSE
from autotune.core.layers import chosen_sites
from autotune.core.quantities import QUALITY
from autotune.core.types import Budget
from autotune.devices.specs import DTYPE_BYTES
from autotune.results.measured import Measured
from autotune.results.record import (
    BudgetUse,
    BuildPaths,
    Calibration,
    CurvePoint,
    LeftOut,
    MeasuredPoint,
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
from autotune.search.tables import site_bytes
from autotune.tuning.planner import Planner
from autotune.tuning.reference_points import uniform_rank
from autotune.tuning.rounds import CHOSEN, Round
from autotune.tuning.site_records import node_latencies, site_records, staircases

if TYPE_CHECKING:
    from autotune.tuning.session import Tuning


def tune_record(
    tuning: Tuning, final: Round, *, rounds: Sequence[Round], quality: Quality
) -> TuneRecord:
    """The record of the final round, without the hashes of the files that are written later."""
    request, measured = tuning.request, final.measured
    planner, machine, loaded = tuning.planner, tuning.machine, tuning.model.loaded
    # Predicted before anything was built, so without corrections.
    predicted = planner.network.predict(final.allocation.plan)
    sizes = _sizes(tuning, final)
    return TuneRecord(
        model=loaded.name,
        model_sha256=loaded.weights_sha256,
        task=loaded.task,
        device=machine.fingerprint,
        fingerprint=machine.fingerprint.id,
        backend=machine.backend.name,
        dtype=planner.network.weight_dtype,
        predicted_from=tuple(machine.sources()),
        workload=tuning.model.workload,
        budget=_texts(request.budget),
        verdict=tuning.verdict_with(final, quality),
        allow_quality_loss=request.allow_quality_loss,
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
        solver=_solver(tuning, final),
        budgets=_budgets(planner, final),
        rounds=tuple(_round(tuning, outcome) for outcome in rounds),
        pareto=_pareto(planner, seeks_latency=request.seeks_latency),
        uniform=_uniform(planner),
        builds=_builds(tuning, final),
        sites=site_records(planner, final, measured=node_latencies(tuning, final)),
        left_out=tuple(
            LeftOut(name=name, reason=reason)
            for name, reason in tuning.model.sites.left_out.items()
        ),
        knobs=dict(tuning.knobs),
        calibration=Calibration(
            origin=tuning.data.origin, sha256=tuning.data.sha256, plan=request.calibration
        ),
        cost=tuning.cost(),
        staircases=staircases(planner),
        layer_timings=machine.layer_timings(),
        runtime_dtype=machine.dtype if machine.dtype != planner.network.weight_dtype else None,
        runtime_options=machine.backend.runtime_options(machine.dtype),
        compared=_compared(tuning, final),
        front=_front(tuning, final),
        dense_latencies_s=dict(tuning.dense_latencies_s),
        cpu_features=machine.cpu_features(),
    )


def _texts(budget: Budget) -> dict[str, str]:
    """The limits as they were given, by resource, and the floor."""
    found = {name: limit.text for name, limit in budget.limits().items()}
    floor = budget.floor()
    return {**found, QUALITY: floor.text} if floor else found


def _compared(tuning: Tuning, final: Round) -> tuple[MeasuredPoint, ...]:
    """The reference points, and what is handed out unless it is a plan of the front; that first."""
    if final.measured is None:
        return ()
    points = dict(tuning.references)
    known = [*points.values(), *tuning.front.values()]
    if not any(one.allocation is final.allocation for one in known):
        points = {CHOSEN: final, **points}
    found = (_measured_point(tuning, n, outcome=one, final=final) for n, one in points.items())
    return tuple(sorted(found, key=lambda point: not point.handed_out))


def _front(tuning: Tuning, final: Round) -> tuple[MeasuredPoint, ...]:
    """The plans that were asked for with `--front`."""
    points = tuning.front.items()
    return tuple(
        _measured_point(tuning, name, outcome=outcome, final=final) for name, outcome in points
    )


def _measured_point(tuning: Tuning, name: str, *, outcome: Round, final: Round) -> MeasuredPoint:
    """A plan that was measured, judged on held-out data as well."""
    handed_out = outcome.allocation is final.allocation
    outcome = final if handed_out else outcome  # as it was measured last
    return MeasuredPoint(
        name=name,
        passes=outcome.judged.passes,
        loss=tuning.search_loss(outcome),
        quality=tuning.judge(outcome).compressed,
        forms=_form_counts(tuning, outcome),
        plan={n: form for n, form in outcome.allocation.plan.items() if not form.is_unchanged},
        handed_out=handed_out,
    )


def _form_counts(tuning: Tuning, outcome: Round) -> dict[str, int]:
    """Layers by form, of factorized ones without the rank."""
    counts: Counter[str] = Counter()
    for site, form in chosen_sites(tuning.model.choices, outcome.allocation.plan):
        kind = str(form) if form.is_dense else f"rank{form.suffix}"
        counts[kind] += len(site.layers)
    return dict(sorted(counts.items()))


def _solver(tuning: Tuning, final: Round) -> SolverRecord:
    allocation, request = final.allocation, tuning.request
    return SolverRecord(
        name=allocation.solver,
        loss=allocation.loss,
        table_loss=tuning.planner.table_loss(allocation.plan),
        lower_bound=allocation.lower_bound,
        certified_gap=allocation.gap if allocation.lower_bound else None,
        metric=tuning.compression.metric,
        factorizer=request.method.factorizer,
        allocator=request.chosen_allocator,
        storage=request.method.storage,
    )


def _budgets(planner: Planner, final: Round) -> dict[str, BudgetUse]:
    """Limit and predicted use of every budget; binding when less than 1 % is left of it."""
    resources = planner.problem({}, final.corrections).resources
    costs = zip(resources, final.allocation.costs, strict=True)
    uses = {name: cost + planner.totals.rest[name] for name, cost in costs}
    uses["activation_bytes"] = planner.peak_bytes(final.allocation.plan)
    return {
        name: BudgetUse(limit=limit, used=uses[name], binding=uses[name] > 0.99 * limit)
        for name, limit in planner.limits.items()
    }


def _phases(planner: Planner, final: Round) -> tuple[PhaseRecord, ...]:
    """Every phase as measured (or predicted), and as predicted before anything was built."""
    pairs = zip(planner.network.phases, final.judged.passes, strict=True)
    return tuple(
        PhaseRecord(
            name=timed.name,
            count=timed.count,
            latency_s=timed.latency_s,
            dense_latency_s=timed.dense_latency_s,
            ratio=timed.ratio,
            ratio_low=timed.ratio_low,
            ratio_high=timed.ratio_high,
            windows=timed.windows,
            disturbed_windows=timed.disturbed_windows,
            waiting=timed.waiting,
            converged=timed.converged,
            predicted_ratio=model.predict(final.allocation.plan).ratio,
        )
        for model, timed in pairs
    )


def _builds(tuning: Tuning, final: Round) -> dict[str, BuildPaths]:
    """What `bench` times again in every phase, relative to the run folder."""
    if final.measured is None:
        return {}

    def relative(path: Path) -> str:
        return str(path.relative_to(tuning.workspace.folder.path))

    return {
        phase: BuildPaths(
            dense=relative(tuning.reference.dense(phase)),
            compressed=relative(compressed),
            inputs=relative(tuning.reference.inputs(phase)),
        )
        for phase, compressed in final.builds.items()
    }


@dataclass(frozen=True, kw_only=True)
class _ModelSizes:
    parameters: Sizes
    stored_bytes: Sizes
    computed_bytes: Sizes
    flops: Sizes


def _sizes(tuning: Tuning, final: Round) -> _ModelSizes:
    """Parameters, bytes and FLOPs of the whole model, dense and compressed.

    FLOPs count the factorizable layers. Stored bytes are on disk, computed bytes in memory at run
    time: a storage that packs the factors changes only the first.
    """
    dense, dtype = tuning.model.parameters, tuning.planner.network.weight_dtype
    size = DTYPE_BYTES[dtype]
    removed = flops = kept_flops = 0
    stored = float(dense * size)
    for site, form in chosen_sites(tuning.model.choices, final.allocation.plan):
        removed += site.shape().parameters - site.shape(form).parameters
        stored -= site_bytes(site, DENSE, dtype=dtype, storage="fp32")
        stored += site_bytes(site, form, dtype=dtype, storage=tuning.compression.storage)
        flops += site.shape().flops
        kept_flops += site.shape(form).flops
    kept = dense - removed
    return _ModelSizes(
        parameters=Sizes(dense=dense, compressed=kept),
        stored_bytes=Sizes(dense=dense * size, compressed=round(stored)),
        computed_bytes=Sizes(dense=dense * size, compressed=kept * size),
        flops=Sizes(dense=flops, compressed=kept_flops),
    )


def _round(tuning: Tuning, outcome: Round) -> RoundRecord:
    measured: Measured | None = outcome.measured
    look = outcome.second_look
    return RoundRecord(
        predicted_ratio=outcome.predicted.ratio,
        measured_ratio=measured.ratio if measured else None,
        measured_ratio_low=measured.ratio_low if measured else None,
        measured_ratio_high=measured.ratio_high if measured else None,
        corrections=tuple(outcome.corrections),
        loss=outcome.allocation.loss,
        verdict=tuning.verdict(outcome.decided),
        second_look_ratio=look.ratio if look else None,
        second_look_ratio_low=look.ratio_low if look else None,
        second_look_ratio_high=look.ratio_high if look else None,
    )


def _pareto(planner: Planner, *, seeks_latency: bool) -> tuple[CurvePoint, ...]:
    """Predicted latency ratio against predicted loss, without any budget."""
    if seeks_latency:
        planner = planner.within(1.0)
    if not planner.limits_latency:
        return ()
    problem = planner.problem({})
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
    return tuple(
        CurvePoint(ratio=(cost + rest) / dense, loss=loss + planner.dtype_loss)
        for cost, loss in front
    )


def _uniform(planner: Planner) -> tuple[UniformPoint, ...]:
    """The same curve for plans that keep one share of the parameters at every site."""
    curve = []
    for percent in range(95, 25, -5):
        plan = uniform_rank(planner, percent / 100)
        loss = planner.table_loss(plan)
        ratio = planner.network.predict(plan).ratio
        curve.append(UniformPoint(keep_ratio=percent / 100, ratio=ratio, loss=loss))
    return tuple(curve)
