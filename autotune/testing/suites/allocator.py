"""Tests of the contract of `autotune.search.allocators.base.Allocator`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from autotune.core.errors import BudgetInfeasibleError
from autotune.search.allocators.base import Allocator, Question
from autotune.search.evidence import Evidence
from autotune.search.exact import solve_exact
from autotune.testing.examples import (
    costs_of,
    example_evidence,
    example_question,
    forms_of,
    plan_of,
)

_RESOURCES = [("latency",), ("latency", "parameters", "flops")]


class AllocatorSuite:
    """Give the fixture `make_allocator`, which makes a new allocator with the same options.

    Problems are of the example model (`autotune.testing.examples`), with errors of real factors.
    """

    @pytest.fixture
    def make_allocator(self) -> Callable[[], Allocator]:
        """A function that makes the allocator under test."""
        raise NotImplementedError("give a fixture named make_allocator")

    @pytest.fixture(scope="class")
    @classmethod
    def evidence(cls, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
        """The example model and its factors."""
        return example_evidence(tmp_path_factory.mktemp("factors"))

    @pytest.fixture(params=_RESOURCES, ids="+".join)
    def question(self, request: pytest.FixtureRequest, evidence: Evidence) -> Question:
        """A problem with budgets of 0.7 of dense."""
        return example_question(evidence, request.param)

    def test_every_budget_holds(
        self, make_allocator: Callable[[], Allocator], question: Question
    ) -> None:
        """The plan keeps every limit, and gives every site one of the forms that are offered."""
        allocation = make_allocator().allocate(question)
        assert question.fits(allocation)
        plan = plan_of(allocation)
        assert set(plan) == set(question.problem.sites)
        for site in question.sites:
            assert plan[site.name] in forms_of(question, site)
        assert not all(form.is_dense for form in plan.values())

    def test_loss_and_costs_are_those_of_the_plan(
        self, make_allocator: Callable[[], Allocator], question: Question
    ) -> None:
        """Loss and costs are the sums over the chosen options."""
        allocation = make_allocator().allocate(question)
        loss, costs = costs_of(question, plan_of(allocation))
        assert allocation.loss == pytest.approx(loss)
        assert allocation.costs == pytest.approx(costs)

    def test_the_bound_is_a_bound(
        self, make_allocator: Callable[[], Allocator], question: Question
    ) -> None:
        """`lower_bound` ≤ optimum ≤ `loss`; 0 is the bound of rules that have none."""
        allocation = make_allocator().allocate(question)
        best = solve_exact(question.problem, relative_gap=1e-9)
        assert allocation.loss >= best.loss * (1 - 1e-6)
        assert 0.0 <= allocation.lower_bound <= best.loss * (1 + 1e-6)

    def test_it_is_deterministic(
        self, make_allocator: Callable[[], Allocator], question: Question
    ) -> None:
        """The same question has the same plan, from a new allocator and from one that knows it."""
        allocator = make_allocator()
        first = plan_of(allocator.allocate(question))
        assert plan_of(allocator.allocate(question)) == first
        assert plan_of(make_allocator().allocate(question)) == first

    def test_it_may_be_asked_again_with_other_limits(
        self, make_allocator: Callable[[], Allocator], evidence: Evidence
    ) -> None:
        """Asked again with other limits, it keeps these, whatever it learned from the former."""
        loose = example_question(evidence, ("parameters",), share=1.0)
        tight = example_question(evidence, ("parameters",), share=0.5)
        allocator = make_allocator()
        generous, sparing = allocator.allocate(loose), allocator.allocate(tight)
        assert generous.costs[0] >= sparing.costs[0]
        assert tight.fits(sparing)
        assert loose.fits(allocator.allocate(loose))

    def test_an_impossible_budget_is_refused(
        self, make_allocator: Callable[[], Allocator], evidence: Evidence
    ) -> None:
        """`BudgetInfeasibleError` carries the least that is reachable of each resource."""
        impossible = example_question(evidence, ("parameters",), share=1e-3)
        with pytest.raises(BudgetInfeasibleError) as caught:
            make_allocator().allocate(impossible)
        assert caught.value.reachable["parameters"] > impossible.problem.limits[0]

    def test_the_model_is_left_as_it_was(
        self, make_allocator: Callable[[], Allocator], evidence: Evidence
    ) -> None:
        """The model is the caller's: dense, frozen and without hooks afterwards, always."""
        before = {name: value.clone() for name, value in evidence.subject.model.named_parameters()}
        make_allocator().allocate(example_question(evidence))
        with pytest.raises(BudgetInfeasibleError):
            make_allocator().allocate(example_question(evidence, share=1e-3))
        after = dict(evidence.subject.model.named_parameters())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not any(value.requires_grad for value in after.values())
        assert not any(module._forward_hooks for module in evidence.subject.model.modules())
