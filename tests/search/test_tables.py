"""From sites to a plan problem: peaks, stored sizes, and what an infeasible budget is told."""

import dataclasses

import pytest

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import Site
from autotune.predictor.network.model import NetworkAnchor, NetworkModel, PhaseModel
from autotune.search.exact import solve_exact
from autotune.search.problem import Option, PlanProblem
from autotune.search.tables import (
    Resources,
    build_problem,
    count_resources,
    explain_infeasible,
    live_bytes,
)

SITES = tuple(
    Site(name=f"s{i}", in_features=64, out_features=n, tokens=10) for i, n in enumerate((64, 192))
)
RANKS = (8, 16, 24)
ERRORS = {site.name: {low_rank(rank): 1.0 / rank for rank in RANKS} for site in SITES}


@pytest.fixture
def build():
    """A problem under absolute limits; latency is never asked, so there is no predictor."""
    shares = {site.shape().dense: 0.25 for site in SITES}
    anchor = NetworkAnchor(latency_s=1.0, layer_shares=shares)
    network = NetworkModel(phases=(PhaseModel(anchor=anchor, predictor=None, sites=SITES),))
    parameters = sum(site.shape().parameters for site in SITES) + 1000
    totals = count_resources(
        SITES, network, parameters=parameters, weight_bytes=4 * parameters, kv_cache_bytes=512
    )

    def problem(storage="fp32", **limits):
        found = build_problem(
            SITES, errors=ERRORS, network=network, totals=totals, limits=limits, storage=storage
        )
        return found, totals

    return problem


def test_a_peak_strikes_out_ranks_whose_latent_exceeds_it(build):
    dense = live_bytes(SITES[1], DENSE, dtype="fp32")
    problem, _ = build(parameters=1e9, activation_bytes=dense + 4 * 10 * 16)
    ranks = [sorted(o.form.rank for o in options if o.form.rank) for options in problem.options]
    assert ranks == [[8, 16, 24], [8, 16]]
    assert problem.resources == ("parameters",)


def test_a_peak_below_the_dense_layers_is_infeasible(build):
    dense = live_bytes(SITES[1], DENSE, dtype="fp32")
    with pytest.raises(BudgetInfeasibleError, match="removes neither input nor output") as error:
        build(parameters=1e9, activation_bytes=dense - 1)
    assert error.value.reachable == {"activation_bytes": dense}


def test_a_kv_cache_is_the_same_at_every_rank(build):
    problem, totals = build(parameters=1e9, kv_cache_bytes=511)
    column = problem.resources.index("kv_cache_bytes")
    assert {o.costs[column] for options in problem.options for o in options} == {0.0}
    with pytest.raises(BudgetInfeasibleError):
        solve_exact(problem)
    error = explain_infeasible(problem, totals, limits={"parameters": 1e9, "kv_cache_bytes": 511})
    assert "does not shrink a KV cache" in str(error)


def test_weight_bytes_are_those_of_the_storage(build):
    sizes = {}
    for storage in ("fp32", "fp16", "remap8"):
        problem, _ = build(storage, weight_bytes=1e9)
        (option,) = [o for o in problem.options[1] if o.form == low_rank(16)]
        sizes[storage] = option.costs[0]
    assert sizes == {"fp32": 4 * 16 * 256, "fp16": 2 * 16 * 256, "remap8": 2 * 16 * 192 + 64}


def test_conflicting_budgets_get_the_nearest_point_and_it_is_feasible():
    """Each budget alone is met by one option, both together by none; the third is nearest."""
    costs = {8: (0.0, 2.0), 16: (2.0, 0.0), 24: (1.2, 1.1)}
    options = tuple(
        Option(form=low_rank(rank), loss=1.0, costs=cost) for rank, cost in costs.items()
    )
    problem = PlanProblem(
        sites=("s",), options=(options,), resources=("parameters", "flops"), limits=(1.0, 1.0)
    )
    totals = Resources(
        dense={"parameters": 4.0, "flops": 4.0}, rest={"parameters": 0.0, "flops": 0.0}
    )
    error = explain_infeasible(problem, totals, limits={"parameters": 1.0, "flops": 1.0})
    assert "nearest feasible point" in str(error)
    assert error.reachable == pytest.approx({"parameters": 1.2, "flops": 1.1})
    limits = tuple(error.reachable.values())
    assert solve_exact(dataclasses.replace(problem, limits=limits)).plan == {"s": low_rank(24)}
