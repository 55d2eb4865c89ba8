"""From sites, errors and latencies to a plan problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.compress.precisions import make_precision, require_native
from autotune.compress.storage_layouts import stored_bits
from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import DENSE, Form
from autotune.core.layers import Site
from autotune.core.quantities import format_bytes, format_count, format_seconds
from autotune.devices.specs import DTYPE_BYTES
from autotune.predictor.network.model import NetworkModel
from autotune.search.milp import solve_nearest
from autotune.search.problem import Joint, Option, PlanProblem

# Predicted loss increase of every site and joint site in each form that it may take. A dense,
# unchanged site loses nothing and has no entry.
ErrorTable = Mapping[str, Mapping[Form, float]]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the dense network uses of each resource, and what of it the sites do not touch."""

    dense: Mapping[str, float]
    rest: Mapping[str, float]


def live_bytes(site: Site, form: Form, *, dtype: str) -> float:
    """Input, latent and output of one layer, or the outputs of several, which live at once."""
    width = site.in_features + site.out_features + form.rank
    return float(site.tokens * width * DTYPE_BYTES[dtype])


def peak_bytes(sites: Sequence[Site], dtype: str) -> float:
    """The most that one of the dense layers keeps at once."""
    return max(live_bytes(site, DENSE, dtype=dtype) for site in sites)


def count_resources(
    sites: Sequence[Site],
    network: NetworkModel,
    *,
    parameters: int,
    weight_bytes: int,
    kv_cache_bytes: int = 0,
) -> Resources:
    """Totals of the dense model; `parameters` and `weight_bytes` are of the whole model.

    FLOPs are those of the factorizable layers (2·M·K·N each), the only ones a plan changes.
    """
    own = sum(site.in_features * site.out_features for site in sites)
    flops = sum(site.shape().flops for site in sites)
    own_bytes = own * DTYPE_BYTES[network.weight_dtype]
    dense = {
        "latency": network.dense_latency_s,
        "parameters": float(parameters),
        "weight_bytes": float(weight_bytes),
        "flops": float(flops),
        "kv_cache_bytes": float(kv_cache_bytes),
        "activation_bytes": peak_bytes(sites, network.weight_dtype),
    }
    rest = {
        "latency": network.rest_s,
        "parameters": float(parameters - own),
        "weight_bytes": float(weight_bytes - own_bytes),
        "flops": 0.0,
        "kv_cache_bytes": float(kv_cache_bytes),
        "activation_bytes": 0.0,
    }
    return Resources(dense=dense, rest=rest)


def site_bytes(site: Site, form: Form, *, dtype: str, storage: str) -> float:
    """Stored bytes of the site's weight or factors in the form's precision.

    Factors in native precision are packed as `storage` says (fp32: not packed).

    Raises:
        UsageError: an unknown precision or storage (the known ones are listed), or packed factors
            in another precision than native.
    """
    if storage != "fp32" and not form.is_dense:
        require_native(site, form, storage=storage)
        return (
            stored_bits(
                storage,
                in_features=site.in_features,
                out_features=site.out_features,
                rank=form.rank,
            )
            / 8
        )
    return make_precision(form.precision).layer_bytes(site.shape(form, dtype))


def site_costs(
    site: Site,
    form: Form,
    *,
    network: NetworkModel,
    resources: Sequence[str],
    storage: str = "fp32",
) -> tuple[float, ...]:
    """What the site costs of each resource in `form`; weight bytes are those of `storage`."""
    shape = site.shape(form, network.dtype)
    costs: dict[str, Callable[[], float]] = {
        "latency": lambda: network.site_latency_s(site, form),
        "parameters": lambda: float(shape.parameters),
        "weight_bytes": lambda: site_bytes(site, form, dtype=network.weight_dtype, storage=storage),
        "flops": lambda: float(shape.flops),
        "kv_cache_bytes": lambda: 0.0,
    }
    return tuple(costs[name]() for name in resources)


def build_problem(
    sites: Sequence[Site],
    *,
    errors: ErrorTable,
    network: NetworkModel,
    totals: Resources,
    limits: Mapping[str, float],
    storage: str = "fp32",
    joint: Sequence[Site] = (),
) -> PlanProblem:
    """The problem over dense layers and every form in `errors`, with absolute `limits`.

    Limits are of the whole network. A `joint` site is a choice instead of its members. Nothing is
    pruned: papers' rules choose among all forms; the exact solver prunes for itself.

    Raises:
        BudgetInfeasibleError: activations of the dense layers alone exceed their limit.
    """
    # A peak is no sum: layers are never live together, so its limit strikes out options instead.
    resources = tuple(name for name in limits if name != "activation_bytes")
    peak = limits.get("activation_bytes", math.inf)
    _require_peak(peak, peak_bytes(sites, network.dtype), totals=totals)

    def choices(site: Site) -> tuple[Option, ...]:
        return tuple(
            Option(
                form=form,
                loss=errors[site.name][form],
                costs=site_costs(site, form, network=network, resources=resources, storage=storage),
            )
            for form in sorted(errors[site.name])
            if live_bytes(site, form, dtype=network.dtype) <= peak
        )

    options = []
    for site in sites:
        costs = site_costs(site, DENSE, network=network, resources=resources)
        options.append((Option(form=DENSE, loss=0.0, costs=costs), *choices(site)))
    index = {site.name: i for i, site in enumerate(sites)}
    together = [
        Joint(name=g.name, members=tuple(index[n] for n in g.members), options=choices(g))
        for g in joint
    ]
    return PlanProblem(
        sites=tuple(site.name for site in sites),
        options=tuple(options),
        joint=tuple(one for one in together if one.options),
        resources=resources,
        limits=tuple(limits[name] - totals.rest[name] for name in resources),
    )


def _require_peak(peak: float, least: float, *, totals: Resources) -> None:
    """Refuse a limit on activations that the dense layers alone exceed."""
    if peak < least:
        raise BudgetInfeasibleError(
            f"infeasible budget: activation_bytes {format_bytes(peak)} was requested; no plan "
            f"needs less than {_amount('activation_bytes', least, totals=totals)}; "
            "factorizing adds a latent and removes neither input nor output",
            {"activation_bytes": least},
        )


_FORMATS = {
    "latency": format_seconds,
    "parameters": format_count,
    "weight_bytes": format_bytes,
    "flops": format_count,
    "kv_cache_bytes": format_bytes,
    "activation_bytes": format_bytes,
}


def explain_infeasible(
    problem: PlanProblem, totals: Resources, *, limits: Mapping[str, float]
) -> BudgetInfeasibleError:
    """The error for an infeasible problem.

    Budgets that no plan reaches alone are named with their reachable minimum; of budgets that only
    conflict, the nearest feasible point is given: all of them exceeded by the least common share.
    """
    reachable = {
        name: float(least) + totals.rest[name]
        for name, least in zip(problem.resources, problem.least_costs(), strict=True)
    }
    over = [name for name in problem.resources if reachable[name] > limits[name]]
    parts = [
        f"{name} {_FORMATS[name](limits[name])} was requested and no plan needs less than "
        f"{_amount(name, reachable[name], totals=totals)}"
        for name in over or problem.resources
    ]
    if "kv_cache_bytes" in over:
        parts.append("factorizing k and v projections does not shrink a KV cache")
    if over:
        return BudgetInfeasibleError(f"infeasible budget: {'; '.join(parts)}", reachable)
    rest = [totals.rest[name] for name in problem.resources]
    nearest = solve_nearest(problem, rest)
    point = {
        name: cost + totals.rest[name]
        for name, cost in zip(problem.resources, nearest.costs, strict=True)
    }
    where = " with ".join(
        f"{name} {_amount(name, value, totals=totals)}" for name, value in point.items()
    )
    return BudgetInfeasibleError(
        "infeasible budget: the budgets conflict, each alone is reachable: "
        f"{'; '.join(parts)}; the nearest feasible point is {where}",
        point,
    )


def _amount(name: str, value: float, *, totals: Resources) -> str:
    """`67.8 K (0.8x of dense)`, the ratio rounded up so that asking for it succeeds."""
    ratio = math.ceil(value / max(totals.dense[name], 1e-300) * 1000) / 1000
    return f"{_FORMATS[name](value)} ({ratio:g}x of dense)"
