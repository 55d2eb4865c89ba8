"""The low-rank layer and its place in a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from autotune.errors import ModelError


class LowRankLinear(nn.Module):
    """y = weight · (weight_down · x) + bias, the rank-r form of a linear layer.

    Shapes: x (…, K), weight_down (r, K), weight (N, r), bias (N) or None.

    The up factor keeps the dense layer's parameter name on purpose: a reader that does not know
    this layout meets a size mismatch at `<name>.weight` instead of initialising at random.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.weight_down = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=dtype))
        self.weight = nn.Parameter(torch.empty(out_features, rank, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) to (…, N)."""
        return functional.linear(functional.linear(x, self.weight_down), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Shape and rank, as nn.Linear prints its own."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"rank={self.rank}, bias={self.bias is not None}"
        )


def dense_weight(module: nn.Module) -> Tensor:
    """The layer's weight as (N, K), whichever way the module stores it.

    Raises:
        ModelError: not a linear layer.
    """
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    if isinstance(module, Conv1D):
        return module.weight.detach().T
    raise ModelError(f"{type(module).__name__} is not a linear layer")


def low_rank_like(module: nn.Module, up: Tensor, down: Tensor) -> LowRankLinear:
    """The low-rank form of `module` with factors up (N, r) and down (r, K), in its dtype."""
    weight = dense_weight(module)
    bias = module.bias
    layer = LowRankLinear(
        weight.shape[1], weight.shape[0], down.shape[0], bias is not None, "meta", weight.dtype
    )
    layer.weight_down = nn.Parameter(down.to(weight).contiguous())
    layer.weight = nn.Parameter(up.to(weight).contiguous())
    if isinstance(bias, Tensor):
        layer.bias = nn.Parameter(bias.detach())
    return layer


@contextmanager
def replaced(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """The model with `layers` in place, as it was afterwards."""
    before = replace_modules(model, layers)
    try:
        yield
    finally:
        replace_modules(model, before)


def replace_modules(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Put `layers` at their names in `model`; returns the modules that stood there."""
    replaced: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        replaced[name] = getattr(owner, leaf)
        setattr(owner, leaf, layer)
    return replaced
