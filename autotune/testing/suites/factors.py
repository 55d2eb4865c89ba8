"""Tests of the contract of `autotune.compress.factors.Factors`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from autotune.compress.factors import Factors
from autotune.compress.lowrank import dense_weight
from autotune.core.forms import Form, low_rank
from autotune.core.layers import Site, break_even_rank
from autotune.testing.examples import ExampleModel, example_model


class FactorsSuite:
    """Give the fixture `factors` of the fixture `example`, made anew for each test.

    `example` is the example model (`autotune.testing.examples`). `joint` is whether there are
    factors of its joint sites too.
    """

    joint = True

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls) -> ExampleModel:
        """The model whose factors are asked for."""
        return example_model()

    @pytest.fixture
    def factors(self, example: ExampleModel) -> Factors:
        """The factors under test, which a subclass provides."""
        raise NotImplementedError("give a fixture named factors")

    @pytest.fixture
    def sites(self, example: ExampleModel) -> Sequence[Site]:
        """Everything that there are factors of."""
        return (*example.sites, *(example.joint if self.joint else ()))

    def weight(self, example: ExampleModel, site: Site) -> Tensor:
        """The weight (N, K) of a site, or those of a joint site's layers, one below the other."""
        return torch.cat([dense_weight(example.model.get_submodule(n)) for n in site.layers])

    def forms(self, factors: Factors, sites: Sequence[Site], *, most: bool) -> dict[Site, Form]:
        """The least or the greatest rank of every site."""
        return {
            site: low_rank(
                break_even_rank(site.in_features, site.out_features) - 1
                if most
                else factors.least_rank(site)
            )
            for site in sites
        }

    def test_errors_fall_with_the_rank(self, factors: Factors, sites: Sequence[Site]) -> None:
        """`errors` is (min(N, K) + 1), fp64, not increasing, and 0 at full rank."""
        for site in sites:
            errors = factors.errors(site)
            assert errors.shape == (min(site.in_features, site.out_features) + 1,)
            assert errors.dtype == torch.float64
            assert errors[0] > 0
            assert (errors[1:] <= errors[:-1]).all()
            assert 0 <= errors[-1] <= 1e-9 * errors[0]
            assert torch.equal(errors, factors.errors(site))

    def test_the_least_rank_saves_work(self, factors: Factors, sites: Sequence[Site]) -> None:
        """`least_rank` is at least 1 and below the break-even rank."""
        for site in sites:
            least = factors.least_rank(site)
            assert 1 <= least < break_even_rank(site.in_features, site.out_features)

    @pytest.mark.parametrize("most", [False, True], ids=["least rank", "greatest rank"])
    def test_a_plan_has_the_factors_of_every_site(
        self, factors: Factors, example: ExampleModel, sites: Sequence[Site], most: bool
    ) -> None:
        """Each site once, with up (N, r) and down (r, K), finite and in the model's dtype."""
        forms = self.forms(factors, sites, most=most)
        found = list(factors.plan(forms))
        assert sorted(site.name for site, _ in found) == sorted(site.name for site in forms)
        for site, (up, down) in found:
            assert up.shape == (site.out_features, forms[site].rank)
            assert down.shape == (forms[site].rank, site.in_features)
            assert up.dtype == down.dtype == self.weight(example, site).dtype
            assert torch.isfinite(up).all()
            assert torch.isfinite(down).all()

    def test_they_are_factors_of_the_sites_weight(
        self, factors: Factors, example: ExampleModel, sites: Sequence[Site]
    ) -> None:
        """The product is nearer to the weight at the greatest rank than at the least."""
        distances: list[dict[str, float]] = []
        for most in (False, True):
            found = factors.plan(self.forms(factors, sites, most=most))
            distances.append(
                {s.name: float((self.weight(example, s) - u @ d).norm()) for s, (u, d) in found}
            )
        for site in sites:
            least, greatest = (each[site.name] for each in distances)
            assert greatest < least
            assert greatest < float(self.weight(example, site).norm())

    def test_the_same_plan_has_the_same_factors(
        self, factors: Factors, sites: Sequence[Site]
    ) -> None:
        """Whatever was asked before, and in whatever order: equal up to rounding."""
        wanted = self.forms(factors, sites[:3], most=False)
        first = dict(factors.plan(wanted))
        list(factors.plan(self.forms(factors, sites[1:4], most=True)))
        again = dict(factors.plan(dict(reversed(wanted.items()))))
        assert first.keys() == again.keys()
        for site in wanted:
            for one, other in zip(first[site], again[site], strict=True):
                assert torch.allclose(one, other, atol=1e-5)

    def test_an_empty_plan_has_none(self, factors: Factors) -> None:
        """`plan({})` yields no factors and raises nothing."""
        assert list(factors.plan({})) == []

    def test_the_model_is_left_as_it_was(
        self, factors: Factors, example: ExampleModel, sites: Sequence[Site]
    ) -> None:
        """The model is the caller's: its weights are not written to, nor does it keep hooks."""
        before = {name: value.clone() for name, value in example.model.named_parameters()}
        list(factors.plan(self.forms(factors, sites, most=False)))
        after = dict(example.model.named_parameters())
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not any(value.requires_grad for value in after.values())
        assert not any(module._forward_hooks for module in example.model.modules())
