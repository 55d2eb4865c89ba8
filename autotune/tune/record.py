"""What result.json and the report say of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autotune.core.types import break_even_rank, chosen_units
from autotune.devices.specs import DTYPE_BYTES
from autotune.profiler.measure.nodes import profile_sites
from autotune.results.measured import Measured
from autotune.search.lagrangian import pareto_front
from autotune.search.problem import Option
from autotune.search.tables import live_bytes, site_bytes
from autotune.tune.builds import artefact_key, dense_artefact
from autotune.tune.context import Context
from autotune.tune.measuring import network_inputs
from autotune.tune.planner import Planner, Round
from autotune.tune.predicted import prediction_sources
from autotune.tune.stages import chosen_metric


def run_record(
    context: Context, planner: Planner, final: Round, rounds: Sequence[Round],
    quality: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The record of the final round."""
    request, measured = context.request, final.measured
    here = context.target.is_here
    # What was promised before anything was built: no correction.
    promised = planner.network.predict(final.allocation.ranks)
    return {
        "model": context.loaded.name,
        "model_sha256": context.loaded.weights_sha256,
        "task": context.loaded.task,
        "device": context.fingerprint.to_json(),
        "fingerprint": context.fingerprint.id,
        "backend": context.backend.name,
        "dtype": context.dtype,
        # Nothing measured: whose numbers the prediction is made of.
        "predicted_from": [] if here else prediction_sources(context),
        "workload": asdict(request.workload),
        "budget": {name: q.text for name, q in request.budget.limits().items()},
        "within_budget": planner.within(final),
        "dense_latency_s": final.judged.dense_latency_s,
        "rest_latency_s": planner.network.rest_s,
        "predicted_latency_s": promised.latency_s,
        "predicted_latency_low_s": promised.low_s,
        "predicted_latency_high_s": promised.high_s,
        "predicted_ratio": promised.ratio,
        "measured_latency_s": measured.latency_s if measured else None,
        **_measured(measured),
        "passes": _passes(planner, final),
        "quality": dict(quality),
        **_sizes(context, final),
        "solver": {
            "name": final.allocation.solver,
            "loss": final.allocation.loss,
            "table_loss": planner.table_loss(final.allocation.ranks),
            "lower_bound": final.allocation.lower_bound,
            "certified_gap": final.allocation.gap if final.allocation.lower_bound else None,
            "metric": chosen_metric(context),
            "factorizer": request.method.factorizer,
            "allocator": request.chosen_allocator,
            "storage": request.method.storage,
        },
        "budgets": _budgets(planner, final),
        "rounds": [_round_record(planner, outcome) for outcome in rounds],
        "pareto": _pareto(planner),
        "uniform": _uniform(context, planner),
        "artefacts": _artefacts(context, final),
        "sites": _site_records(context, planner, final),
    }


def _measured(measured: Measured | None) -> dict[str, float | None]:
    """The measured ratio and its 95 % interval; None where the device is elsewhere."""
    return {
        "measured_ratio": measured.ratio if measured else None,
        "measured_ratio_low": measured.ratio_low if measured else None,
        "measured_ratio_high": measured.ratio_high if measured else None,
    }


def _budgets(planner: Planner, final: Round) -> dict[str, dict[str, Any]]:
    """Limit and use of every budget, as predicted; binding when less than 1 % is left of it."""
    resources = planner.problem({}, final.corrections, 0.0).resources
    costs = zip(resources, final.allocation.costs, strict=True)
    uses = {name: cost + planner.totals.rest[name] for name, cost in costs}
    uses["activation_bytes"] = max(
        live_bytes(unit, rank, planner.context.dtype)
        for unit, rank in chosen_units(planner.context.units, final.allocation.ranks)
    )
    return {
        name: {"limit": limit, "used": uses[name], "binding": uses[name] > 0.99 * limit}
        for name, limit in planner.limits.items()
    }


def _passes(planner: Planner, final: Round) -> list[dict[str, Any]]:
    """Every pass by itself: as measured, and as predicted before anything was built."""
    ranks = final.allocation.ranks
    pairs = zip(planner.network.passes, final.judged.passes, strict=True)
    return [
        {**asdict(timed), "predicted_ratio": model.predict(ranks).ratio} for model, timed in pairs
    ]


def _artefacts(context: Context, final: Round) -> dict[str, dict[str, str]]:
    """What `bench` times again in every pass, relative to the run folder."""
    if final.measured is None:
        return {}

    def relative(path: Path) -> str:
        return str(path.relative_to(context.folder.path))

    return {
        run: {
            "dense": relative(dense_artefact(context, run)),
            "compressed": relative(artefact),
            "inputs": relative(network_inputs(context, run)),
        }
        for run, artefact in final.artefacts.items()
    }


def _sizes(context: Context, final: Round) -> dict[str, Any]:
    """Parameters, stored bytes and FLOPs, dense and compressed, of the whole model.

    FLOPs count the factorizable layers. Stored bytes are on disk, computed bytes in memory at run
    time: storage that packs the factors changes only the first.
    """
    model = context.loaded.model
    dense = sum(p.numel() for p in model.parameters())
    size = DTYPE_BYTES[context.dtype]
    removed = flops = kept_flops = 0
    stored = float(dense * size)
    for site, rank in chosen_units(context.units, final.allocation.ranks):
        removed += site.shape().parameters - site.shape(rank).parameters
        stored -= site_bytes(site, None, context.dtype, "fp32")
        stored += site_bytes(site, rank, context.dtype, context.request.method.storage)
        flops += site.shape().flops
        kept_flops += site.shape(rank).flops
    return {
        "parameters": {"dense": dense, "compressed": dense - removed},
        "stored_bytes": {"dense": dense * size, "compressed": round(stored)},
        "computed_bytes": {"dense": dense * size, "compressed": (dense - removed) * size},
        "flops": {"dense": flops, "compressed": kept_flops},
    }


def _round_record(planner: Planner, outcome: Round) -> dict[str, Any]:
    return {
        "predicted_ratio": outcome.predicted.ratio,
        **_measured(outcome.measured),
        "corrections": list(outcome.corrections),
        "loss": outcome.allocation.loss,
        "within_budget": planner.within(outcome),
    }


def _pareto(planner: Planner) -> list[dict[str, float]]:
    """Predicted latency ratio against predicted loss, without any budget."""
    if "latency" not in planner.limits:
        return []
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
    return [{"ratio": (cost + rest) / dense, "loss": loss} for cost, loss in pareto_front(single)]


def _uniform(context: Context, planner: Planner) -> list[dict[str, float]]:
    """The same curve for plans that keep one ratio of the parameters at every site."""
    curve = []
    for percent in range(95, 25, -5):
        ranks: dict[str, int | None] = {}
        for site in context.sites.sites:
            most = percent / 100 * break_even_rank(site.in_features, site.out_features)
            fitting = [rank for rank in sorted(planner.errors[site.name]) if rank <= most]
            ranks[site.name] = fitting[-1] if fitting else None
        loss = planner.table_loss(ranks)
        ratio = planner.network.predict(ranks).ratio
        curve.append({"keep_ratio": percent / 100, "ratio": ratio, "loss": loss})
    return curve


def _site_records(context: Context, planner: Planner, final: Round) -> list[dict[str, Any]]:
    measured = _node_latencies(context, final)
    records = []
    for site, rank in chosen_units(context.units, final.allocation.ranks):
        dense = planner.network.layer_estimate(site, None)
        chosen = planner.network.layer_estimate(site, rank)
        errors = planner.errors[site.name]
        records.append(
            {
                "name": site.name,
                "layers": list(site.layers),
                "group": site.group,
                "block": site.block,
                "tokens": site.tokens,
                "in_features": site.in_features,
                "out_features": site.out_features,
                "rank": rank,
                "keep_ratio": site.shape(rank).parameters / site.shape().parameters,
                "dense_latency_s": dense.latency_s,
                "predicted_latency_s": chosen.latency_s,
                "predicted_low_s": chosen.low_s,
                "predicted_high_s": chosen.high_s,
                "source": chosen.source,
                "measured_latency_s": sum(measured[name] for name in site.layers)
                if measured
                else None,
                "error": errors[rank] if rank is not None else 0.0,
                "reason": _reason(rank, bool(errors)),
            }
        )
    records += [
        {"name": name, "rank": None, "reason": reason}
        for name, reason in context.sites.left_out.items()
    ]
    return records


def _reason(rank: int | None, has_candidates: bool) -> str:
    if rank is not None:
        return "factorized: the least total loss within the budget"
    if not has_candidates:
        return "left dense: no aligned rank below break-even"
    return "left dense: elsewhere the same latency costs less loss"


def _node_latencies(context: Context, final: Round) -> dict[str, float]:
    """Seconds of every site inside the final network, where the backend can tell."""
    if final.measured is None or not context.backend.profiles_nodes:
        return {}
    names = [site.name for site in context.sites.sites]
    total = dict.fromkeys(names, 0.0)
    for run, count in context.request.workload.passes.items():
        artefact, inputs = final.artefacts[run], network_inputs(context, run)

        def compute(artefact: Path = artefact, inputs: Path = inputs) -> dict[str, float]:
            with context.reporter.stage("measure the sites in the network") as advance:
                profile = profile_sites(artefact, inputs, context.threads, names, advance)
                return profile.sites_s

        key = {
            "artefact": artefact_key(context, artefact),
            "inputs": inputs.name,
            "fingerprint": context.fingerprint.id,
        }
        for name, seconds in context.folder.json_stage("nodes", key, compute).items():
            total[name] += count * seconds
    return total


def staircases(context: Context, planner: Planner) -> list[dict[str, Any]]:
    """Latency against rank for every distinct shape, for the report."""
    names = {
        one.shape(unit.name, None): (one.predictor, unit.name)
        for one in planner.network.passes
        for unit in context.units
    }
    curves = []
    for shape, (predictor, name) in sorted(names.items(), key=lambda item: item[0]):
        points = []
        for rank in planner.errors[name]:
            estimate = predictor.estimate(replace(shape, rank=rank))
            points.append({"rank": rank, **asdict(estimate)})
        dense = predictor.estimate(shape)
        curves.append(
            {
                "tokens": shape.tokens,
                "in_features": shape.in_features,
                "out_features": shape.out_features,
                "parts": list(shape.parts),
                "dense_latency_s": dense.latency_s,
                "points": points,
            }
        )
    return curves
