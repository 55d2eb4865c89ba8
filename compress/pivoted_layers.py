"""Low-rank layers of which one factor holds an identity, which is neither stored nor multiplied.

The factors are those of pivoting.py. An integer tensor, stored with the weights, says which inputs
the latent selects, or where the outputs lie.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.compress.lowrank import LeadingLowRankLinear, LowRankLinear
from autotune.core.forms import PIVOTED, Form, low_rank, pivots_inputs


class PivotedInLinear(LowRankLinear):
    """y = weight · (x[order[:r]] + weight_down · x[order[r:]]) + bias.

    Shapes: x (…, K), weight_down (r, K − r), weight (N, r), weight_order (K), bias (N) or None.
    """

    weight_order: Tensor

    def __init__(self, in_features: int, out_features: int, *, rank: int, **options: Any) -> None:
        super().__init__(in_features, out_features, rank=rank, **options)
        self.weight_down = _empty_like(self.weight_down, (rank, in_features - rank))
        self.register_buffer("weight_order", _empty_order(self.weight, in_features))

    @property
    def form(self) -> Form:
        """The form that a plan gives such a layer."""
        return low_rank(self.rank, PIVOTED)

    def _product(self, x: Tensor) -> Tensor:
        chosen = x.index_select(-1, self.weight_order[: self.rank])
        rest = x.index_select(-1, self.weight_order[self.rank :])
        return chosen + functional.linear(rest, self.weight_down)

    def whole_down(self) -> Tensor:
        """The down factor (r, K) with its identity, in fp64."""
        stored = self.weight_down.detach().double()
        both = torch.cat([_identity(self.rank, stored), stored], dim=1)
        return both[:, self.weight_order.argsort()]


class LeadingPivotedLinear(LeadingLowRankLinear, PivotedInLinear):
    """A pivoted layer whose latent other layers with the same input share."""


class PivotedOutLinear(LowRankLinear):
    """z = weight_down · x; y[i] = (z, weight · z)[places[i]] + bias[i].

    Shapes: x (…, K), weight_down (r, K), weight (N − r, r), weight_places (N), bias (N) or None.
    """

    weight_places: Tensor

    def __init__(self, in_features: int, out_features: int, *, rank: int, **options: Any) -> None:
        super().__init__(in_features, out_features, rank=rank, **options)
        self.weight = _empty_like(self.weight, (out_features - rank, rank))
        self.register_buffer("weight_places", _empty_order(self.weight, out_features))

    @property
    def form(self) -> Form:
        """The form that a plan gives such a layer."""
        return low_rank(self.rank, PIVOTED)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, N) for x (…, K)."""
        latent = self.latent(x)
        both = torch.cat([latent, functional.linear(latent, self.weight)], dim=-1)
        y = both.index_select(-1, self.weight_places)
        return y if self.bias is None else y + self.bias

    def product(self) -> Tensor:
        """The weight (N, K) that the factors stand for, in fp64."""
        stored = self.weight.detach().double()
        up = torch.cat([_identity(self.rank, stored), stored])[self.weight_places]
        return up @ self.whole_down()


def narrow_side(in_features: int, out_features: int) -> type[LowRankLinear]:
    """The layer with its identity where a permutation moves fewer values."""
    return PivotedInLinear if pivots_inputs(in_features, out_features) else PivotedOutLinear


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _empty_like(factor: Tensor, shape: tuple[int, int]) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device=factor.device, dtype=factor.dtype))


def _empty_order(factor: Tensor, length: int) -> Tensor:
    return torch.empty(length, dtype=torch.int64, device=factor.device)
