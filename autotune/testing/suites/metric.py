"""Tests of the contract of `autotune.compress.metrics.base.Metric`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from autotune.compress.factorizers.truncated import factorize
from autotune.compress.lowrank import dense_weight
from autotune.compress.metrics.base import Metric, Whitening
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site
from autotune.testing.examples import ExampleModel, example_model

_EXACT = 1e-10


class MetricSuite:
    """Give the fixture `metric`.

    Statistics are those of the example model (`autotune.testing.examples`) in fp64, and hold only
    the moments that the metric names.
    """

    @pytest.fixture
    def metric(self) -> Metric:
        """The metric under test, which a subclass provides."""
        raise NotImplementedError("give a fixture named metric")

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls) -> ExampleModel:
        """The example model in fp64."""
        return example_model(dtype=torch.float64)

    @pytest.fixture
    def statistics(self, metric: Metric, example: ExampleModel) -> Statistics:
        """The moments that the metric names, and no others."""
        return example.statistics(metric.moments)

    def weight(self, example: ExampleModel, site: Site) -> Tensor:
        """The weight (N, K) of a site, fp64."""
        return dense_weight(example.model.get_submodule(site.name)).double()

    def test_roots_are_lower_triangular_and_fp64(
        self, metric: Metric, example: ExampleModel, statistics: Statistics
    ) -> None:
        """Both roots are None or lower triangular fp64 matrices of the site's sizes, finite."""
        for site in example.sites:
            whitening = metric.whitening(site, statistics)
            sizes = ((whitening.left, site.out_features), (whitening.right, site.in_features))
            for root, size in sizes:
                if root is not None:
                    assert root.shape == (size, size)
                    assert root.dtype == torch.float64
                    assert torch.isfinite(root).all()
                    assert torch.equal(root, root.tril())
            assert whitening.scale > 0

    def test_full_rank_is_exact_and_errors_fall(
        self, metric: Metric, example: ExampleModel, statistics: Statistics
    ) -> None:
        """Roots are invertible: the full-rank factorization is exact in fp64 to 1e-10."""
        for site in example.sites:
            weight = self.weight(example, site)
            result = factorize(weight, metric.whitening(site, statistics))
            up, down = result.factors(min(weight.shape))
            assert torch.linalg.norm(up @ down - weight) <= _EXACT * torch.linalg.norm(weight)
            assert (result.errors[1:] <= result.errors[:-1]).all()
            assert result.errors[0] > 0

    def test_its_own_factors_are_best_by_its_own_error(
        self, metric: Metric, example: ExampleModel, statistics: Statistics
    ) -> None:
        """The error is a norm of the whitened difference: truncation in it beats plain SVD."""
        weight = self.weight(example, example.sites[0])
        whitening = metric.whitening(example.sites[0], statistics)
        result = factorize(weight, whitening)
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        for rank in (4, 16, 40):
            plain = (u[:, :rank] * s[:rank]) @ vt[:rank]
            assert _error(whitening, weight - plain) >= float(result.errors[rank]) * (1 - 1e-9)

    def test_the_same_statistics_give_the_same_roots(
        self, metric: Metric, example: ExampleModel, statistics: Statistics
    ) -> None:
        """`whitening` is deterministic and leaves the statistics as they are."""
        site = example.sites[-1]
        before = {name: value.clone() for name, value in statistics.moments.items()}
        first, second = (metric.whitening(site, statistics) for _ in range(2))
        assert _same(first.left, second.left)
        assert _same(first.right, second.right)
        assert first.scale == second.scale
        assert all(torch.equal(before[name], value) for name, value in statistics.moments.items())

    def test_sites_with_one_input_share_the_right_root(
        self, metric: Metric, example: ExampleModel, statistics: Statistics
    ) -> None:
        """`shared_whitenings` gives one whitening per member, their right roots equal."""
        by_name = {site.name: site for site in example.sites}
        assert example.joint
        for joint in example.joint:
            members = [by_name[name] for name in joint.members]
            found = metric.shared_whitenings(members, statistics)
            assert len(found) == len(members)
            assert all(_same(found[0].right, each.right) for each in found[1:])

    def test_a_site_without_data_has_roots_too(
        self, metric: Metric, example: ExampleModel, statistics: Statistics
    ) -> None:
        """A site that never received anything has zero moments; its roots are invertible still."""
        empty = {name: torch.zeros_like(value) for name, value in statistics.moments.items()}
        nothing = dataclasses.replace(statistics, moments=empty)
        site = example.sites[0]
        weight = self.weight(example, site)
        up, down = factorize(weight, metric.whitening(site, nothing)).factors(min(weight.shape))
        assert torch.linalg.norm(up @ down - weight) <= _EXACT * torch.linalg.norm(weight)


def _error(whitening: Whitening, difference: Tensor) -> float:
    return whitening.scale * float(whitening.whiten(difference).square().sum())


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)
