"""Joint sites in the plan problem: the exact solver against enumeration, and what they cost."""

import itertools
import math

import numpy as np
import pytest

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import DENSE, low_rank, plan_to_json
from autotune.core.layers import Site, chosen_sites
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.model import NetworkAnchor, NetworkModel, PhaseModel
from autotune.search.exact import solve_exact
from autotune.search.lagrangian import pareto_front, solve_lagrangian
from autotune.search.problem import Allocation, Joint, Option, PlanProblem
from autotune.search.relaxation import Tables
from autotune.search.sensitivity import rescaled, scale_of, sensitivity_pass
from autotune.search.tables import build_problem, count_resources
from tests.search.test_solvers import random_problem


def with_joint(problem, seed, resources):
    """Sites 0 to 2 and 3 to 4 may go together, for about as much as they cost alone."""
    rng = np.random.default_rng(1000 + seed)
    joint = []
    for name, members in (("a", (0, 1, 2)), ("b", (3, 4))):
        options = []
        for rank in (8, 16, 24, 32):
            alone = [problem.options[i][rank // 8 - 1] for i in members]
            factor = rng.uniform(0.6, 1.3)
            costs = tuple(sum(o.costs[j] for o in alone) * factor for j in range(resources))
            loss = sum(o.loss for o in alone) * rng.uniform(0.3, 1.5)
            options.append(Option(form=low_rank(rank), loss=loss, costs=costs))
        joint.append(Joint(name=name, members=members, options=tuple(options)))
    return PlanProblem(**{**problem.__dict__, "joint": tuple(joint)})


def enumerate_with_joint(problem):
    """Every subset of the joint sites in use, every option."""
    best = math.inf
    for used in itertools.product((False, True), repeat=len(problem.joint)):
        taken = [j for j, use in zip(problem.joint, used, strict=True) if use]
        covered = {i for j in taken for i in j.members}
        free = [o for i, o in enumerate(problem.options) if i not in covered]
        for picked in itertools.product(*(j.options for j in taken), *free):
            costs = np.sum([o.costs for o in picked], axis=0)
            if (costs <= np.array(problem.limits)).all():
                best = min(best, sum(o.loss for o in picked))
    return best


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("resources", [1, 2, 3])
def test_the_exact_solver_equals_enumeration(seed, resources):
    problem = with_joint(random_problem(seed, resources, ranks=4), seed, resources)
    allocation = solve_exact(problem, relative_gap=1e-9)
    best = enumerate_with_joint(problem)
    assert allocation.loss == pytest.approx(best, rel=1e-6)
    assert allocation.lower_bound <= best * (1 + 1e-6)
    for joint in problem.joint:
        names = {problem.sites[i] for i in joint.members}
        assert (joint.name in allocation.plan) != bool(names & set(allocation.plan))
    assert (np.array(allocation.costs) <= np.array(problem.limits) * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(12))
def test_the_lagrangian_is_feasible_and_its_bound_holds(seed):
    problem = with_joint(random_problem(seed, ranks=4), seed, 1)
    allocation = solve_lagrangian(problem)
    best = enumerate_with_joint(problem)
    assert allocation.costs[0] <= problem.limits[0]
    assert allocation.lower_bound <= best * (1 + 1e-9) <= allocation.loss * (1 + 2e-9)
    assert all(a[1] >= b[1] for a, b in itertools.pairwise(pareto_front(problem)))


@pytest.mark.parametrize("seed", range(6))
def test_what_an_option_costs_beyond_the_bound_is_no_exaggeration(seed):
    """With an option forced the optimum is at least bound + excess: no better one is ruled out."""
    problem = with_joint(random_problem(seed, 2, ranks=3), seed, 2)
    tables, limits = Tables.of(problem), np.array(problem.limits)
    multipliers = np.random.default_rng(seed).exponential(size=2) * 10.0 ** -(seed % 4)
    bound, excess = tables.bound(multipliers, limits), tables.excess(multipliers)
    assert bound <= enumerate_with_joint(problem)
    tight = 0
    for row, options in enumerate(problem.all_options):
        for i, option in enumerate(options):
            forced = enumerate_with_joint(only(problem, row, option))
            assert bound + excess[row, i] <= forced * (1 + 1e-9)
            tight += np.isfinite(forced) and excess[row, i] > 0
    assert tight > 5


def only(problem, row, option):
    """The problem in which the plan must take `option` of the site or joint site `row`."""
    sites = len(problem.sites)
    if row < sites:
        options = tuple((option,) if i == row else o for i, o in enumerate(problem.options))
        apart = tuple(joint for joint in problem.joint if row not in joint.members)
        return PlanProblem(**{**problem.__dict__, "options": options, "joint": apart})
    forced = problem.joint[row - sites]
    never = Option(form=low_rank(1), loss=0.0, costs=(np.inf,) * len(problem.resources))
    options = tuple((never,) if i in forced.members else o for i, o in enumerate(problem.options))
    joint = tuple(
        Joint(name=j.name, members=j.members, options=(option,)) if j is forced else j
        for j in problem.joint
    )
    return PlanProblem(**{**problem.__dict__, "options": options, "joint": joint})


def test_joint_sites_are_used_where_they_are_better_and_lower_the_reachable_minimum():
    used = 0
    for seed in range(12):
        problem = with_joint(random_problem(seed, ranks=4), seed, 1)
        used += any(n in "ab" for n in solve_exact(problem).plan)
        alone = PlanProblem(**{**problem.__dict__, "joint": ()})
        assert problem.least_costs()[0] <= alone.least_costs()[0]
        tight = PlanProblem(**{**problem.__dict__, "limits": tuple(problem.least_costs() * 0.99)})
        with pytest.raises(BudgetInfeasibleError):
            solve_exact(tight)
    assert used > 3


LAYERS = tuple(Site(name=n, in_features=64, out_features=64, tokens=10, block=0) for n in "qkv")
JOINT = Site(
    name="q+k+v",
    in_features=64,
    out_features=192,
    tokens=10,
    block=0,
    members=("q", "k", "v"),
    parts=(64, 64, 64),
)


class HalfPrice(LatencyPredictor):
    """A pair costs rank / 64 of its dense layer; joint ones three quarters of that."""

    def estimate(self, shape):
        ratio = shape.rank / 64 * (0.75 if shape.parts else 1.0)
        return Estimate(latency_s=ratio, low_s=ratio, high_s=ratio, ratio=ratio, source="measured")


def network(*, joint_share=0.6, correction=1.0):
    shares = {LAYERS[0].shape(): 0.2, JOINT.shape(): joint_share}
    anchor = NetworkAnchor(latency_s=1.0, layer_shares=shares)
    one = PhaseModel(
        anchor=anchor, predictor=HalfPrice(), sites=(*LAYERS, JOINT), correction=correction
    )
    return NetworkModel(phases=(one,))


def test_the_network_counts_a_joint_site_instead_of_its_members():
    model = network()
    assert model.rest_s == pytest.approx(0.4)
    assert model.predict({"q+k+v": low_rank(32)}).ratio == pytest.approx(0.4 + 0.6 * 0.375)
    apart = {"q": low_rank(32), "k": DENSE}
    assert model.predict(apart).ratio == pytest.approx(0.4 + 0.2 * 0.5 + 0.4)


def test_a_joint_site_replaces_its_members_and_not_one_wide_layer():
    """Three narrow layers may take longer than one as wide as them all."""
    model = network(joint_share=0.3)
    assert model.predict({"q+k+v": low_rank(32)}).ratio == pytest.approx(0.4 + 0.3 * 0.375)
    assert model.site_latency_s(JOINT, DENSE) == pytest.approx(0.6)


@pytest.mark.parametrize("correction", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("joint_share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    "plan", [{}, {"q": low_rank(16)}, {"q+k+v": low_rank(32)}, {"q+k+v": low_rank(48)}]
)
def test_the_solver_counts_what_the_network_model_predicts(plan, joint_share, correction):
    model = network(joint_share=joint_share, correction=correction)
    counted = model.rest_s + sum(
        model.site_latency_s(site, form) for site, form in chosen_sites((*LAYERS, JOINT), plan)
    )
    assert model.predict(plan).latency_s == pytest.approx(counted)


def test_the_problem_prices_a_joint_site_by_its_own_shape():
    errors = {site.name: {low_rank(16): 1.0} for site in (*LAYERS, JOINT)}
    totals = count_resources(LAYERS, network(), parameters=3 * 64 * 64 + 100, weight_bytes=0)
    limits = {"latency": 0.6, "parameters": 1e9, "flops": 1e9, "weight_bytes": 1e9}
    problem = build_problem(
        LAYERS, errors=errors, network=network(), totals=totals, limits=limits, joint=(JOINT,)
    )
    ((option,),) = (joint.options for joint in problem.joint)
    parameters = 16 * (64 + 192)
    assert option.costs == pytest.approx(
        (0.6 * 16 / 64 * 0.75, parameters, 2 * 10 * parameters, 4 * parameters)
    )
    assert problem.joint[0].members == (0, 1, 2)


def test_the_sensitivity_pass_perturbs_what_was_chosen_and_scales_its_layers():
    sites = (*LAYERS, JOINT)
    table = {site.name: {low_rank(16): 0.3, low_rank(32): 0.1} for site in sites}
    asked = []

    class Judge:
        def true_loss(self, plan):
            return sum(4 * table[name][form] for name, form in plan.items() if not form.is_dense)

        def judge(self, plans, progress):
            asked.extend(plan_to_json(plan) for plan in plans)

        def surely_better(self, plan, other):
            return False

    chosen = Allocation(
        plan={"q+k+v": low_rank(32)}, loss=0.1, costs=(1.0,), lower_bound=0.0, solver="test"
    )
    neutral = dict.fromkeys("qkv", 1.0)
    scales = rescaled(sites, chosen, errors=table, scales=neutral, judge=Judge())
    assert scales == pytest.approx(dict.fromkeys("qkv", 2.0))
    assert asked == [{"q+k+v": "rank=32"}, {"q+k+v": "rank=16"}]
    assert scale_of(JOINT, {"q": 1.0, "k": 2.0, "v": 4.0}) == pytest.approx(2.0)
    kept = sensitivity_pass(
        sites, errors=table, solve=lambda scales: chosen, judge=Judge(), rounds=1
    )
    assert set(kept) == set("qkv")
