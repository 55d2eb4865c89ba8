"""Plans from tables; a planner is a value, and the sensitivity pass makes another of it."""

import dataclasses

import pytest

from autotune.core.errors import BudgetInfeasibleError
from autotune.core.forms import Form, low_rank
from autotune.core.workload import Budget
from autotune.search.allocators import make_allocator
from tests.autotune.tuning.conftest import Q


def within(planner, plan):
    saved = sum(
        site.shape().parameters - site.shape(plan[site.name]).parameters
        for site in planner.model.choices
        if site.name in plan
    )
    return planner.model.parameters - saved <= planner.limits["parameters"] * (1 + 1e-9)


def test_a_plan_holds_the_budget(planner):
    allocation = planner.solve({})
    assert within(planner, allocation.plan)
    assert any(not form.is_dense for form in allocation.plan.values())
    assert planner.table_loss(allocation.plan) == pytest.approx(allocation.loss)


def test_the_sensitivity_pass_leaves_the_planner_alone(planner):
    plan = planner.solve({}).plan
    before = planner.table_loss(plan)
    seen = []
    # Whatever comes of the rescaling is taken, so that there is something to see.
    planner.evidence.losses.surely_better = lambda plan, other: True
    other = planner.rescaled(1, lambda done, total: seen.append((done, total)))
    assert planner.scales == {}
    assert planner.table_loss(plan) == before
    assert planner.solve({}).plan == plan
    assert other.scales != dict.fromkeys(other.scales, 1.0)
    assert other.scales.keys() == {site.name for site in planner.model.single}
    assert other.table_loss(plan) != before
    assert dataclasses.replace(other, scales={}) == planner
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] > 1


def test_scales_rescale_the_errors_of_a_site(planner):
    plan = {Q: low_rank(8)}
    other = dataclasses.replace(planner, scales={Q: 3.0})
    assert other.table_loss(plan) == pytest.approx(3 * planner.table_loss(plan))
    site = next(site for site in planner.model.single if site.name == Q)
    assert (planner.scale(site), other.scale(site)) == (1.0, 3.0)


def test_the_margin_is_given_up_before_a_budget_is_refused(planner):
    """The least that can be reached has no room for a margin."""
    least = dataclasses.replace(planner, budget=Budget(latency="0.01x").limits())
    with pytest.raises(BudgetInfeasibleError) as caught:
        least.solve({})
    fastest = caught.value.reachable["latency"] / planner.totals.dense["latency"]
    close = dataclasses.replace(
        planner, budget=Budget(latency=f"{min(fastest * 1.001, 1.0):.6f}x").limits()
    )
    allocation = close.solve({}, margin=0.05)
    used = allocation.costs[0] + planner.totals.rest["latency"]
    assert used <= 1.0011 * caught.value.reachable["latency"]
    assert close.network.predict(allocation.plan).latency_s == pytest.approx(used)
    assert close.network.predict(allocation.plan).ratio <= fastest * 1.0011


def test_a_budget_that_no_plan_meets_is_refused_whatever_the_allocator(planner):
    for name in ("exact", "uniform"):
        refused = dataclasses.replace(
            planner,
            budget=Budget(parameters="0.01x").limits(),
            allocator=make_allocator(name),
        )
        with pytest.raises(BudgetInfeasibleError):
            refused.require_feasible()
    planner.require_feasible()


def test_limits_are_resolved_by_what_the_dense_model_uses(planner):
    assert planner.limits == {"parameters": pytest.approx(0.8 * planner.model.parameters)}
    assert not planner.limits_latency
    assert planner.limit_ratio(1.0) is None
    both = dataclasses.replace(planner, budget=Budget(latency="3ms").limits())
    assert both.limits == {"latency": pytest.approx(3e-3)}
    assert both.limits_latency
    assert both.limit_ratio(4e-3) == pytest.approx(0.75)


def test_the_progress_of_a_rule_goes_to_whoever_asked(planner):
    """It is an argument: a later solve without it tells nobody."""
    slow = dataclasses.replace(planner, allocator=make_allocator("dipsvd-bayes:trials=2"))
    heard = []
    slow.solve({}, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(0, 2), (1, 2)]
    slow.solve({})
    assert len(heard) == 2


def test_a_dense_joint_site_loses_what_its_layers_lose(planner):
    """Each with its own factor: as one choice it is neither better nor worse than as several."""
    rounded = Form(precision="int8-static")
    joint = planner.model.joint[0]
    own = {name: {**planner.errors[name], rounded: 0.1} for name in joint.members}
    wrong = {joint.name: {**planner.errors[joint.name], rounded: 7.0}}
    scales = {name: 2.0**i for i, name in enumerate(joint.members)}
    changed = dataclasses.replace(planner, errors={**planner.errors, **own, **wrong}, scales=scales)
    together = changed.table_loss({joint.name: rounded})
    apart = changed.table_loss(dict.fromkeys(joint.members, rounded))
    assert together == pytest.approx(apart)
    assert together == pytest.approx(0.1 * sum(scales.values()))
