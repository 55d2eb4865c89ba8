"""The low-rank layer and its place in a model."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from autotune.core.errors import ModelError
from autotune.core.forms import Form, low_rank


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
        *,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.rank = in_features, rank
        self._add_up(out_features, bias=bias, device=device, dtype=dtype)
        self.weight_down = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=dtype))

    def _add_up(
        self,
        out_features: int,
        *,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Up factor and bias: all but the down factor."""
        self.out_features, rank = out_features, self.rank
        self.weight = nn.Parameter(torch.empty(out_features, rank, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        )

    @property
    def form(self) -> Form:
        """The form that a plan gives such a layer."""
        return low_rank(self.rank)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, N) for x (…, K)."""
        return functional.linear(self.latent(x), self.weight, self.bias)

    def latent(self, x: Tensor) -> Tensor:
        """The product with the down factor, (…, r), for x (…, K)."""
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight_down)

    def whole_down(self) -> Tensor:
        """The down factor (r, K) with whatever of it is not stored, in fp64."""
        return self.weight_down.detach().double()

    def product(self) -> Tensor:
        """The weight (N, K) that the factors stand for, in fp64."""
        return self.weight.detach().double() @ self.whole_down()

    def extra_repr(self) -> str:
        """Shape and rank, as nn.Linear prints its own."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"rank={self.rank}, bias={self.bias is not None}"
        )


class LeadingLowRankLinear(LowRankLinear):
    """A low-rank layer whose down factor other layers with the same input share.

    It keeps the latent of its last input until each of them has taken it once.
    """

    _followers = 0
    _kept: tuple[Callable[[], Tensor | None], int, bool, Tensor] | None = None
    _left = 0

    def latent(self, x: Tensor) -> Tensor:
        """The product with the down factor, (…, r), which is kept for the followers."""
        latent = self._product(x)
        # Compilers and exporters find the common product themselves, and trace no side effects.
        if not torch.compiler.is_compiling():
            self._kept = (weakref.ref(x), _version(x), torch.is_grad_enabled(), latent)
            self._left = self._followers
        return latent

    def latent_again(self, x: Tensor) -> Tensor:
        """The latent for a follower: the kept one if `x` is the very input it was made of."""
        kept = self._kept
        if torch.compiler.is_compiling() or kept is None:
            return self._product(x)
        source, version, grad, latent = kept
        if source() is not x or version != _version(x) or grad != torch.is_grad_enabled():
            return self._product(x)
        self._left -= 1
        if self._left <= 0:
            self._kept = None
        return latent

    def __getstate__(self) -> dict[str, Any]:
        """Without what is kept: copies and pickles are of the layer."""
        return {**self.__dict__, "_kept": None}


class SharedLowRankLinear(LowRankLinear):
    """A low-rank layer whose down factor is its leader's; the state dict holds it once, there."""

    def __init__(
        self,
        leader: LeadingLowRankLinear,
        out_features: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        # In a tuple, else the leader would be registered as a child.
        self._leader = (leader,)
        leader._followers += 1
        self.in_features, self.rank = leader.in_features, leader.rank
        self._add_up(out_features, bias=bias, device=device, dtype=dtype)

    @property
    def form(self) -> Form:
        """The form that a plan gives the joint site."""
        return self._leader[0].form

    @property
    def weight_down(self) -> nn.Parameter:  # type: ignore[override]
        """The leader's down factor, also after that one was replaced."""
        return self._leader[0].weight_down

    @property
    def leader(self) -> LeadingLowRankLinear:
        """The layer that owns the down factor."""
        return self._leader[0]

    def whole_down(self) -> Tensor:
        """The leader's down factor (r, K), in fp64."""
        return self._leader[0].whole_down()

    def latent(self, x: Tensor) -> Tensor:
        """The leader's product with the down factor, (…, r), for x (…, K)."""
        return self._leader[0].latent_again(x)


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


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


def dense_like(module: nn.Module, weight: Tensor) -> nn.Module:
    """A copy of a linear layer with another weight (N, K); all else is the layer's own."""
    layer: Any = copy.copy(module)
    layer._parameters = dict(module._parameters)
    own = weight.T if isinstance(module, Conv1D) else weight
    layer.weight = nn.Parameter(own.contiguous(), requires_grad=layer.weight.requires_grad)
    copied: nn.Module = layer
    return copied


def low_rank_like(module: nn.Module, *, up: Tensor, down: Tensor) -> LowRankLinear:
    """The low-rank form of `module` with factors up (N, r) and down (r, K), in its dtype."""
    return shared_low_rank_like([module], ups=[up], down=down)[0]


def shared_low_rank_like(
    modules: Sequence[nn.Module],
    *,
    ups: Sequence[Tensor],
    down: Tensor,
    alone: type[LowRankLinear] = LowRankLinear,
    leading: type[LeadingLowRankLinear] = LeadingLowRankLinear,
) -> list[LowRankLinear]:
    """The low-rank forms of `modules` with one input: ups (N_i, r) and one down (r, K).

    `alone` is the class of a single layer, `leading` that of the first of several; the factors are
    of the shapes that it has.
    """
    layers: list[LowRankLinear] = []
    leader: LowRankLinear | None = None
    rank = down.shape[0]
    for module, up in zip(modules, ups, strict=True):
        weight, bias = dense_weight(module), module.bias
        n = weight.shape[0]
        options: dict[str, Any] = {
            "bias": bias is not None,
            "device": "meta",
            "dtype": weight.dtype,
        }
        if leader is None:
            kind_of = alone if len(modules) == 1 else leading
            layer = leader = kind_of(weight.shape[1], n, rank=rank, **options)
            layer.weight_down = nn.Parameter(down.to(weight).contiguous())
        else:
            assert isinstance(leader, LeadingLowRankLinear)
            layer = SharedLowRankLinear(leader, n, **options)
        layer.weight = nn.Parameter(up.to(weight).contiguous())
        if isinstance(bias, Tensor):
            layer.bias = nn.Parameter(bias.detach())
        layers.append(layer)
    return layers


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
