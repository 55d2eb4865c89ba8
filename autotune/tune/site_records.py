"""Sites and layer shapes of a tuning, as its record holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from autotune.core.forms import DENSE, Form, low_rank
from autotune.core.types import LayerShape, Site, chosen_units
from autotune.predictor.network.model import PassModel
from autotune.profiler.measure.nodes import profile_sites
from autotune.results.record import SiteRecord, Staircase, StaircasePoint
from autotune.tune.builds import artefact_key
from autotune.tune.context import Context
from autotune.tune.measuring import network_inputs
from autotune.tune.planner import Planner, Round


def site_records(
    context: Context, planner: Planner, final: Round, measured: Mapping[str, float]
) -> tuple[SiteRecord, ...]:
    """Every site and joint site of the final plan.

    Args:
        context: The tuning.
        planner: Prices and errors of the sites.
        final: The round that is handed out.
        measured: Seconds of each layer inside the network; empty where nothing was measured.
    """
    return tuple(
        _site_record(planner, site, rank, measured)
        for site, rank in chosen_units(context.units, final.allocation.ranks)
    )


def _site_record(
    planner: Planner, site: Site, rank: int | None, measured: Mapping[str, float]
) -> SiteRecord:
    dense = planner.network.layer_estimate(site, None)
    chosen = planner.network.layer_estimate(site, rank)
    errors = planner.errors[site.name]
    return SiteRecord(
        name=site.name,
        layers=site.layers,
        group=site.group,
        block=site.block,
        tokens=site.tokens,
        in_features=site.in_features,
        out_features=site.out_features,
        form=_form(rank),
        keep_ratio=site.shape(rank).parameters / site.shape().parameters,
        dense_latency_s=dense.latency_s,
        predicted_latency_s=chosen.latency_s,
        predicted_low_s=chosen.low_s,
        predicted_high_s=chosen.high_s,
        source=chosen.source,
        measured_latency_s=sum(measured[name] for name in site.layers) if measured else None,
        error=errors[rank] if rank is not None else 0.0,
        reason=_reason(rank, bool(errors)),
    )


def _form(rank: int | None) -> Form:
    return DENSE if rank is None else low_rank(rank)


def _reason(rank: int | None, has_candidates: bool) -> str:
    if rank is not None:
        return "factorized: smallest total loss within the budget"
    if not has_candidates:
        return "left dense: no aligned rank below break-even"
    return "left dense: the same latency costs less loss at other sites"


def node_latencies(context: Context, final: Round) -> dict[str, float]:
    """Seconds of each layer inside the final network; empty where the backend cannot report them.

    The times of all phases are added up, each as often as the workload runs it.
    """
    if final.measured is None or not context.backend.profiles_nodes:
        return {}
    names = [site.name for site in context.sites.sites]
    total = dict.fromkeys(names, 0.0)
    for phase, count in context.request.workload.passes.items():
        artefact, inputs = final.artefacts[phase], network_inputs(context, phase)

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


def staircases(context: Context, planner: Planner) -> tuple[Staircase, ...]:
    """Latency against rank for every distinct shape of every phase."""
    names = {
        one.shape(unit.name, None): (one, unit.name)
        for one in planner.network.passes
        for unit in context.units
    }
    return tuple(
        _staircase(one, shape, tuple(planner.errors[name]))
        for shape, (one, name) in sorted(names.items(), key=lambda item: item[0])
    )


def _staircase(model: PassModel, shape: LayerShape, ranks: tuple[int, ...]) -> Staircase:
    points = []
    for rank in ranks:
        estimate = model.predictor.estimate(replace(shape, rank=rank))
        points.append(
            StaircasePoint(
                form=low_rank(rank),
                latency_s=estimate.latency_s,
                low_s=estimate.low_s,
                high_s=estimate.high_s,
                ratio=estimate.ratio,
                source=estimate.source,
            )
        )
    return Staircase(
        tokens=shape.tokens,
        in_features=shape.in_features,
        out_features=shape.out_features,
        parts=shape.parts,
        dense_latency_s=model.predictor.estimate(shape).latency_s,
        points=tuple(points),
    )
