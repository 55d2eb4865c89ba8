"""Tests of the contract of `autotune.compress.factorizers.base.Factorizer`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autotune.compress.factorizers.base import Factorizer, Layer
from autotune.compress.factorizers.truncated import factorize
from autotune.compress.metrics.base import Whitening, damped_root
from autotune.core.layers import Site

_N, _K = 48, 40
_EXACT = 1e-10


class FactorizerSuite:
    """Give the fixture `factorizer`.

    The layer is a random weight (48, 40) with correlated inputs; its whitening is that of the
    inputs, or of both sides.
    """

    @pytest.fixture
    def factorizer(self) -> Factorizer:
        """The factorizer under test, which a subclass provides."""
        raise NotImplementedError("give a fixture named factorizer")

    @pytest.fixture(params=["inputs", "both sides"])
    def layer(self, request: pytest.FixtureRequest) -> Layer:
        """A layer with everything that a factorizer may ask for."""
        generator = torch.Generator().manual_seed(5)

        def draw(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator, dtype=torch.float64)

        weight, x = draw(_N, _K), draw(_K, _K) @ draw(_K, 400)
        right = damped_root(x @ x.T / x.shape[1], 1e-8)
        sample = draw(_N, 2 * _N)
        left = damped_root(sample @ sample.T, 1e-2) if request.param == "both sides" else None
        _, _, vt = torch.linalg.svd((weight @ x).T, full_matrices=False)
        return Layer(
            site=Site(name="site", in_features=_K, out_features=_N, tokens=1),
            weight=weight,
            whitening=Whitening(left=left, right=right, scale=1.0),
            output_basis=vt.T,
        )

    def ranks(self, factorizer: Factorizer, layer: Layer) -> list[int]:
        """The least rank that the factorizer can make, and some above it."""
        least = factorizer.least_rank(layer.site)
        return sorted({least, *(rank for rank in (12, 25) if rank >= least)})

    def test_the_least_rank_is_one(self, factorizer: Factorizer, layer: Layer) -> None:
        """`least_rank` is at least 1 and at most the full rank."""
        assert 1 <= factorizer.least_rank(layer.site) <= min(_N, _K)

    def test_factors_are_fp64_of_the_rank(self, factorizer: Factorizer, layer: Layer) -> None:
        """`factors` returns up (N, r) and down (r, K), fp64 and finite."""
        for rank in self.ranks(factorizer, layer):
            up, down = factorizer.factors(layer, rank)
            assert up.shape == (_N, rank)
            assert down.shape == (rank, _K)
            assert up.dtype == down.dtype == torch.float64
            assert torch.isfinite(up).all()
            assert torch.isfinite(down).all()

    def test_full_rank_is_exact(self, factorizer: Factorizer, layer: Layer) -> None:
        """At rank min(N, K) the product is the weight to 1e-10."""
        up, down = factorizer.factors(layer, min(_N, _K))
        difference = torch.linalg.norm(up @ down - layer.weight)
        assert difference <= _EXACT * torch.linalg.norm(layer.weight)

    def test_it_is_deterministic(self, factorizer: Factorizer, layer: Layer) -> None:
        """The same layer and rank have the same factors up to rounding."""
        first, second = (factorizer.factors(layer, 12) for _ in range(2))
        assert torch.allclose(first[0], second[0], atol=1e-9)
        assert torch.allclose(first[1], second[1], atol=1e-9)

    def test_the_layer_is_left_as_it_was(self, factorizer: Factorizer, layer: Layer) -> None:
        """The layer belongs to the caller: its weight is not written to, nor handed out."""
        before = layer.weight.clone()
        up, down = factorizer.factors(layer, 12)
        up.zero_()
        down.zero_()
        assert torch.equal(layer.weight, before)

    def test_nothing_beats_truncation_in_the_metric(
        self, factorizer: Factorizer, layer: Layer
    ) -> None:
        """No factors of a rank have a lower error than the metric's own SVD (Eckart–Young)."""
        best = factorize(layer.weight, layer.whitening)
        for rank in self.ranks(factorizer, layer):
            up, down = factorizer.factors(layer, rank)
            whitened = layer.whitening.whiten(layer.weight - up @ down)
            assert float(whitened.square().sum()) >= float(best.errors[rank]) * (1 - 1e-9)

    def test_errors_fall_with_the_rank(self, factorizer: Factorizer, layer: Layer) -> None:
        """The full rank is nearer to the weight than the least rank: the rank is used."""
        up, down = factorizer.factors(layer, factorizer.least_rank(layer.site))
        coarse = torch.linalg.norm(up @ down - layer.weight)
        up, down = factorizer.factors(layer, min(_N, _K) - 1)
        assert torch.linalg.norm(up @ down - layer.weight) < coarse
