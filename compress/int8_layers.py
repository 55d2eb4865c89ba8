"""Layers in 8 bits: integer weights with a scale for each row, and inputs rounded before them.

They compute what the runtimes compute, with the same rounding, in floating point. Weights are kept
as integers in one dimension, so that no reader takes them for the dense weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.compress.lowrank import LeadingLowRankLinear, LowRankLinear, SharedLowRankLinear
from autotune.core.forms import INT8_DYNAMIC, INT8_STATIC, Form, low_rank

_LEVELS = 255


class StaticQuantizer(nn.Module):
    """Rounds x (…, K) to 8 bits in a range that was calibrated, each feature divided before.

    It returns x / smoothing, rounded: (codes − zero_point) · scale with codes =
    round(x / smoothing / scale) + zero_point, cut to 0 … 255. The weight behind it is multiplied by
    `smoothing` (K), so that features of very different sizes share one range (SmoothQuant, Xiao et
    al. 2023, eq. 3).
    """

    precision = INT8_STATIC
    scale: Tensor
    zero_point: Tensor
    smoothing: Tensor

    def __init__(self, features: int, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        for name, shape in (("scale", ()), ("zero_point", ()), ("smoothing", (features,))):
            self.register_buffer(name, torch.empty(shape, device=device, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """The rounded x / smoothing, in the dtype of x."""
        codes = (x * self.smoothing.reciprocal() / self.scale).round() + self.zero_point
        return _like((codes.clamp(0, _LEVELS) - self.zero_point) * self.scale, x)


class DynamicQuantizer(nn.Module):
    """Rounds x to 8 bits in the range that it has at this call (ONNX DynamicQuantizeLinear)."""

    precision = INT8_DYNAMIC

    def __init__(self, features: int, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        del features, device

    def forward(self, x: Tensor) -> Tensor:
        """The rounded x, in its dtype."""
        low, high = x.min().clamp_max(0).float(), x.max().clamp_min(0).float()
        scale = ((high - low) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        zero_point = (-low / scale).round().clamp(0, _LEVELS)
        codes = (x.float() / scale).round() + zero_point
        return _like((codes.clamp(0, _LEVELS) - zero_point) * scale, x)


QUANTIZERS: dict[str, type[StaticQuantizer] | type[DynamicQuantizer]] = {
    each.precision: each for each in (StaticQuantizer, DynamicQuantizer)
}


def _like(rounded: Tensor, x: Tensor) -> Tensor:
    """In the dtype of x, unless the network's products alone are in another (`running_in`)."""
    return rounded if torch.is_autocast_enabled(x.device.type) else rounded.to(x.dtype)


def _integer_product(x: Tensor, weight: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """The product of a rounded input with integer weights, exact whatever dtype others are in."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return functional.linear(x, weight, bias)
    with torch.autocast(kind, enabled=False):
        product = functional.linear(x, weight, bias)
    return product.to(torch.get_autocast_dtype(kind))


def has_int8_layers(model: nn.Module) -> bool:
    """Whether some layer of the model is in 8 bits."""
    return any(isinstance(each, StaticQuantizer | DynamicQuantizer) for each in model.modules())


def dequantized(codes: Tensor, scale: Tensor, *, like: Tensor) -> Tensor:
    """The matrix (rows, columns) of its codes, row after row, and a scale for each row."""
    matrix: Tensor = codes.unflatten(0, (len(scale), -1))
    return (matrix * scale[:, None]).to(like.dtype)


def _empty_codes(rows: int, columns: int, *, device: torch.device | str | None) -> nn.Parameter:
    empty = torch.empty(rows * columns, dtype=torch.int8, device=device)
    return nn.Parameter(empty, requires_grad=False)


def _empty_scales(rows: int, device: torch.device | str | None) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, device=device), requires_grad=False)


class Int8Linear(nn.Module):
    """A dense layer: y = (codes · weight_scale) · rounded(x) + bias.

    Shapes: x (…, K), weight (N · K) int8, weight_scale (N) fp32, bias (N) or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        precision: str,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _empty_codes(out_features, in_features, device=device)
        self.weight_scale = _empty_scales(out_features, device)
        empty = torch.empty(out_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(empty) if bias else None
        self.input_quantizer = QUANTIZERS[precision](in_features, device=device)

    @property
    def form(self) -> Form:
        """The form that a plan gives such a layer."""
        return Form(precision=self.input_quantizer.precision)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, N) for x (…, K)."""
        rounded = self.input_quantizer(x)
        weight = dequantized(self.weight, self.weight_scale, like=rounded)
        return _integer_product(rounded, weight, bias=self.bias)

    def product(self) -> Tensor:
        """The weight (N, K) that it stands for, in fp64."""
        scale = self.weight_scale.double()
        return unsmoothed(dequantized(self.weight, scale, like=scale), self.input_quantizer)


def unsmoothed(weight: Tensor, quantizer: nn.Module) -> Tensor:
    """A weight (N, K) behind `quantizer`, as one that multiplies the input itself."""
    return weight / quantizer.smoothing if isinstance(quantizer, StaticQuantizer) else weight


class Int8LowRankLinear(LowRankLinear):
    """Both factors in 8 bits: the input is rounded before the first, the latent before the second.

    Shapes: x (…, K), weight_down (r · K) int8, weight_down_scale (r), weight (N · r) int8,
    weight_scale (N), bias (N) or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        precision: str,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features, out_features, rank=rank, bias=bias, device="meta", dtype=dtype
        )
        if self.bias is not None:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.weight_down = _empty_codes(rank, in_features, device=device)
        self.weight_down_scale = _empty_scales(rank, device)
        self.weight = _empty_codes(out_features, rank, device=device)
        self.weight_scale = _empty_scales(out_features, device)
        self.input_quantizer = QUANTIZERS[precision](in_features, device=device)
        self.latent_quantizer = QUANTIZERS[precision](rank, device=device)

    @property
    def form(self) -> Form:
        """The form that a plan gives such a layer."""
        return low_rank(self.rank, precision=self.input_quantizer.precision)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, N) for x (…, K)."""
        return _second_product(self, x, quantizer=self.latent_quantizer)

    def _product(self, x: Tensor) -> Tensor:
        rounded = self.input_quantizer(x)
        weight = dequantized(self.weight_down, self.weight_down_scale, like=rounded)
        return _integer_product(rounded, weight)

    def whole_down(self) -> Tensor:
        """The down factor (r, K) that it stands for, in fp64."""
        scale = self.weight_down_scale.double()
        return unsmoothed(dequantized(self.weight_down, scale, like=scale), self.input_quantizer)

    def product(self) -> Tensor:
        """The weight (N, K) that the factors stand for, in fp64."""
        return _whole_up(self, self.latent_quantizer) @ self.whole_down()


class LeadingInt8LowRankLinear(Int8LowRankLinear, LeadingLowRankLinear):
    """A layer in 8 bits whose latent other layers with the same input share."""


class SharedInt8LowRankLinear(SharedLowRankLinear):
    """A layer in 8 bits whose down factor, and the rounding of its latent, are its leader's."""

    def __init__(
        self, leader: LeadingLowRankLinear, out_features: int, *, device: Any = None, **options: Any
    ) -> None:
        super().__init__(leader, out_features, device=device, **options)
        self.weight = _empty_codes(out_features, self.rank, device=device)
        self.weight_scale = _empty_scales(out_features, device)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, N) for x (…, K)."""
        return _second_product(self, x, quantizer=self.leader.latent_quantizer)

    def product(self) -> Tensor:
        """The weight (N, K) that the factors stand for, in fp64."""
        return _whole_up(self, self.leader.latent_quantizer) @ self.whole_down()


def _second_product(layer: Any, x: Tensor, *, quantizer: Any) -> Tensor:
    rounded = quantizer(layer.latent(x))
    weight = dequantized(layer.weight, layer.weight_scale, like=rounded)
    return _integer_product(rounded, weight, bias=layer.bias)


def _whole_up(layer: Any, quantizer: Any) -> Tensor:
    """The up factor (N, r) in fp64."""
    scale = layer.weight_scale.double()
    return unsmoothed(dequantized(layer.weight, scale, like=scale), quantizer)
