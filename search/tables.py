"""From sites, errors and latencies to a rank problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.devices.specs import DTYPE_BYTES
from autotune.errors import BudgetInfeasibleError
from autotune.predictor.network import NetworkModel
from autotune.search.problem import Option, RankProblem, undominated
from autotune.types import Site
from autotune.units import format_bytes, format_count, format_seconds

ErrorTable = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the dense network uses of each resource, and what of it the sites do not touch."""

    dense: Mapping[str, float]
    rest: Mapping[str, float]


def count_resources(
    sites: Sequence[Site], parameters: int, weight_bytes: int, network: NetworkModel
) -> Resources:
    """Totals of the dense model; `parameters` and `weight_bytes` are of the whole model.

    FLOPs are those of the factorizable layers (2·M·K·N each), the only ones a plan changes.
    """
    own = sum(site.in_features * site.out_features for site in sites)
    flops = sum(site.shape().flops for site in sites)
    site_bytes = own * DTYPE_BYTES[network.dtype]
    dense = {
        "latency": network.anchor.latency_s,
        "parameters": float(parameters),
        "weight_bytes": float(weight_bytes),
        "flops": float(flops),
    }
    rest = {
        "latency": network.rest_s,
        "parameters": float(parameters - own),
        "weight_bytes": float(weight_bytes - site_bytes),
        "flops": 0.0,
    }
    return Resources(dense=dense, rest=rest)


def site_costs(
    site: Site, rank: int | None, network: NetworkModel, resources: Sequence[str]
) -> tuple[float, ...]:
    """What the site costs of each resource at `rank`."""
    shape = site.shape(rank, network.dtype)
    costs: dict[str, Callable[[], float]] = {
        "latency": lambda: network.site_latency_s(site, rank),
        "parameters": lambda: float(shape.parameters),
        "weight_bytes": lambda: float(shape.parameters * DTYPE_BYTES[network.dtype]),
        "flops": lambda: float(shape.flops),
    }
    return tuple(costs[name]() for name in resources)


def build_problem(
    sites: Sequence[Site],
    errors: ErrorTable,
    candidates: Mapping[str, Sequence[int]],
    network: NetworkModel,
    totals: Resources,
    limits: Mapping[str, float],
) -> RankProblem:
    """The problem over aligned `candidates` and dense, with absolute `limits` of the network."""
    resources = tuple(limits)
    options = []
    for site in sites:
        choices = [
            Option(
                rank=rank,
                loss=errors[site.name][rank],
                costs=site_costs(site, rank, network, resources),
            )
            for rank in candidates[site.name]
        ]
        dense = Option(rank=None, loss=0.0, costs=site_costs(site, None, network, resources))
        options.append(undominated([dense, *choices]))
    return RankProblem(
        sites=tuple(site.name for site in sites),
        options=tuple(options),
        resources=resources,
        limits=tuple(limits[name] - totals.rest[name] for name in resources),
    )


_FORMATS = {
    "latency": format_seconds,
    "parameters": format_count,
    "weight_bytes": format_bytes,
    "flops": format_count,
}


def explain_infeasible(
    problem: RankProblem, totals: Resources, limits: Mapping[str, float]
) -> BudgetInfeasibleError:
    """The error for an infeasible problem, naming each budget's reachable minimum."""
    reachable = {
        name: float(least) + totals.rest[name]
        for name, least in zip(problem.resources, problem.least_costs(), strict=True)
    }
    over = [name for name in problem.resources if reachable[name] > limits[name]]
    parts = []
    for name in over or problem.resources:
        show, dense = _FORMATS[name], totals.dense[name]
        ratio = math.ceil(reachable[name] / dense * 1000) / 1000
        parts.append(
            f"{name} {show(limits[name])} was asked, {show(reachable[name])} ({ratio:g}x of "
            f"dense) is the least any plan reaches"
        )
    what = "" if over else "the budgets conflict, each alone is reachable: "
    return BudgetInfeasibleError(f"infeasible budget: {what}{'; '.join(parts)}", reachable)
