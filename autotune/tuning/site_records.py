"""Sites and layer shapes of a tuning, as its record holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.forms import DENSE, Form
from autotune.core.layers import LayerShape, Site, chosen_sites
from autotune.predictor.network.model import PhaseModel
from autotune.results.record import SiteRecord, Staircase, StaircasePoint
from autotune.tuning.planner import Planner
from autotune.tuning.rounds import Round

if TYPE_CHECKING:
    from autotune.tuning.session import Tuning


def site_records(
    planner: Planner, final: Round, *, measured: Mapping[str, float]
) -> tuple[SiteRecord, ...]:
    """Every site and joint site of the final plan.

    Args:
        planner: Prices and errors of the sites.
        final: The round that is handed out.
        measured: Seconds of each layer inside the network; empty where nothing was measured.
    """
    return tuple(
        _site_record(planner, site, form=form, measured=measured)
        for site, form in chosen_sites(planner.model.choices, final.allocation.plan)
    )


def _site_record(
    planner: Planner, site: Site, *, form: Form, measured: Mapping[str, float]
) -> SiteRecord:
    dense = planner.network.layer_estimate(site, DENSE)
    chosen = planner.network.layer_estimate(site, form)
    errors = planner.errors[site.name]
    return SiteRecord(
        name=site.name,
        layers=site.layers,
        group=site.group,
        block=site.block,
        tokens=site.tokens,
        in_features=site.in_features,
        out_features=site.out_features,
        form=form,
        keep_ratio=site.shape(form).parameters / site.shape().parameters,
        dense_latency_s=dense.latency_s,
        predicted_latency_s=chosen.latency_s,
        predicted_low_s=chosen.low_s,
        predicted_high_s=chosen.high_s,
        source=chosen.source,
        measured_latency_s=sum(measured[name] for name in site.layers) if measured else None,
        error=errors[form] if not form.is_unchanged else 0.0,
        reason=_reason(form, bool(errors)),
    )


def _reason(form: Form, has_candidates: bool) -> str:
    if not form.is_unchanged:
        return "factorized: smallest total loss within the budget"
    if not has_candidates:
        return "left dense: no aligned rank below break-even"
    return "left dense: the same latency costs less loss at other sites"


def node_latencies(tuning: Tuning, final: Round) -> dict[str, float]:
    """Seconds of each layer inside the final network; empty where that cannot be observed.

    The times of all phases are added up, each as often as the workload runs it.
    """
    if final.measured is None:
        return {}
    names = [site.name for site in tuning.model.single]
    total = dict.fromkeys(names, 0.0)
    for phase, count in tuning.request.workload.passes.items():
        build, inputs = final.builds[phase], tuning.builder.inputs(phase)

        def compute(build: Path = build, inputs: Path = inputs) -> dict[str, float] | None:
            with tuning.workspace.stage("measure the sites in the network") as advance:
                profile = tuning.machine.site_latencies(build, inputs, sites=names, advance=advance)
                return profile.sites_s if profile else None

        key = {
            "build": tuning.builder.key(build),
            "inputs": inputs.name,
            "fingerprint": tuning.machine.fingerprint.id,
        }
        found = tuning.workspace.value("nodes", key, compute=compute)
        if found is None:
            return {}
        for name, seconds in found.items():
            total[name] += count * seconds
    return total


def staircases(planner: Planner) -> tuple[Staircase, ...]:
    """Latency against rank for every distinct shape of every phase."""
    names = {
        one.shape(site.name, DENSE): (one, site.name)
        for one in planner.network.phases
        for site in planner.model.choices
    }
    return tuple(
        _staircase(one, shape, forms=tuple(planner.errors[name]))
        for shape, (one, name) in sorted(names.items(), key=lambda item: item[0])
    )


def _staircase(model: PhaseModel, shape: LayerShape, *, forms: tuple[Form, ...]) -> Staircase:
    points = []
    for form in forms:
        estimate = model.predictor.estimate(shape.with_form(form))
        points.append(
            StaircasePoint(
                form=form,
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
