"""Layers of integers: weights in 8 or 4 bits, and inputs rounded to 8 bits before them.

They compute what the runtimes compute, with the same rounding, in floating point.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.compress.integer_weights import LAYOUTS
from autotune.compress.lowrank import LeadingLowRankLinear, LowRankLinear, SharedLowRankLinear
from autotune.core.forms import (
    INT4_WEIGHT_ONLY,
    INT8_DYNAMIC,
    INT8_STATIC,
    INT8_WEIGHT_ONLY,
    WEIGHT_BLOCK,
    Form,
    low_rank,
)

_LEVELS = 255
_MOST = 127


class StaticQuantizer(nn.Module):
    """Rounds x (…, K) to 8 bits in a range that was calibrated, each feature divided before.

    It returns x / smoothing, rounded: (codes − zero_point) · scale with codes =
    round(x / smoothing / scale) + zero_point, cut to 0 … 255. The weight behind it is multiplied by
    `smoothing` (K), so that features of very different sizes share one range (SmoothQuant, Xiao et
    al. 2023, eq. 3).
    """

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


class BlockQuantizer(nn.Module):
    """Rounds x to 8 bits, each block of features in steps of a 127th of its largest value.

    So does onnxruntime before products with weights in blocks (MatMulNBits, accuracy level 4).
    """

    def __init__(self, features: int, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        del features, device

    def forward(self, x: Tensor) -> Tensor:
        """The rounded x, in its dtype."""
        features = x.shape[-1]
        padded = functional.pad(x.float(), (0, -features % WEIGHT_BLOCK))
        blocks: Tensor = padded.unflatten(-1, (-1, WEIGHT_BLOCK))
        step = blocks.abs().amax(-1, keepdim=True) / _MOST
        step = step.clamp_min(torch.finfo(torch.float32).tiny)
        rounded = ((blocks / step).round() * step).flatten(-2)
        return _like(rounded[..., :features], x)


_Quantizer = type[StaticQuantizer] | type[DynamicQuantizer] | type[BlockQuantizer]
QUANTIZERS: dict[str, _Quantizer] = {
    INT8_STATIC: StaticQuantizer,
    INT8_DYNAMIC: DynamicQuantizer,
    INT8_WEIGHT_ONLY: BlockQuantizer,
    INT4_WEIGHT_ONLY: BlockQuantizer,
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


def has_integer_layers(model: nn.Module) -> bool:
    """Whether some layer of the model is of integers."""
    kinds = (StaticQuantizer, DynamicQuantizer, BlockQuantizer)
    return any(isinstance(each, kinds) for each in model.modules())


class IntegerLinear(nn.Module):
    """A dense layer: y = (codes · weight_scale) · rounded(x) + bias.

    Shapes: x (…, K), weight and weight_scale in the layout of the precision, bias (N) or None.
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
        self.precision = precision
        self.weight, self.weight_scale = LAYOUTS[precision].empty(
            out_features, in_features, device=device
        )
        empty = torch.empty(out_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(empty) if bias else None
        self.input_quantizer = QUANTIZERS[precision](in_features, device=device)

    @property
    def form(self) -> Form:
        """The form that a plan gives such a layer."""
        return Form(precision=self.precision)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, N) for x (…, K)."""
        rounded = self.input_quantizer(x)
        weight = _matrix(self, "weight", columns=self.in_features, dtype=rounded.dtype)
        return _integer_product(rounded, weight, bias=self.bias)

    def product(self) -> Tensor:
        """The weight (N, K) that it stands for, in fp64."""
        weight = _matrix(self, "weight", columns=self.in_features, dtype=torch.float64)
        return unsmoothed(weight, self.input_quantizer)


def _matrix(layer: Any, name: str, *, columns: int, dtype: torch.dtype) -> Tensor:
    """The dequantized values of one of a layer's weights, (rows, columns)."""
    codes, scale = getattr(layer, name), getattr(layer, f"{name}_scale")
    layout = LAYOUTS[layer.precision]
    return layout.values(codes.detach(), scale.detach(), columns=columns, dtype=dtype)


def unsmoothed(weight: Tensor, quantizer: nn.Module) -> Tensor:
    """A weight (N, K) behind `quantizer`, as one that multiplies the input itself."""
    return weight / quantizer.smoothing if isinstance(quantizer, StaticQuantizer) else weight


class IntegerLowRankLinear(LowRankLinear):
    """Both factors of integers: the input is rounded before one, the latent before the other.

    Shapes: x (…, K), weight_down of (r, K) and weight of (N, r), with their scales, in the layout
    of the precision, bias (N) or None.
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
        self.precision, layout = precision, LAYOUTS[precision]
        down, up = ((rank, in_features), (out_features, rank))
        self.weight_down, self.weight_down_scale = layout.empty(*down, device=device)
        self.weight, self.weight_scale = layout.empty(*up, device=device)
        self.input_quantizer = QUANTIZERS[precision](in_features, device=device)
        self.latent_quantizer = QUANTIZERS[precision](rank, device=device)

    @property
    def form(self) -> Form:
        """The form that a plan gives such a layer."""
        return low_rank(self.rank, precision=self.precision)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, N) for x (…, K)."""
        return _second_product(self, x, quantizer=self.latent_quantizer)

    def _product(self, x: Tensor) -> Tensor:
        rounded = self.input_quantizer(x)
        weight = _matrix(self, "weight_down", columns=self.in_features, dtype=rounded.dtype)
        return _integer_product(rounded, weight)

    def whole_down(self) -> Tensor:
        """The down factor (r, K) that it stands for, in fp64."""
        down = _matrix(self, "weight_down", columns=self.in_features, dtype=torch.float64)
        return unsmoothed(down, self.input_quantizer)

    def product(self) -> Tensor:
        """The weight (N, K) that the factors stand for, in fp64."""
        return _whole_up(self, self.latent_quantizer) @ self.whole_down()


class LeadingIntegerLowRankLinear(IntegerLowRankLinear, LeadingLowRankLinear):
    """A layer of integers whose latent other layers with the same input share."""


class SharedIntegerLowRankLinear(SharedLowRankLinear):
    """A layer of integers whose down factor, and the rounding of its latent, are its leader's."""

    def __init__(
        self, leader: LeadingLowRankLinear, out_features: int, *, device: Any = None, **options: Any
    ) -> None:
        super().__init__(leader, out_features, device=device, **options)
        self.weight, self.weight_scale = LAYOUTS[self.precision].empty(
            out_features, self.rank, device=device
        )

    @property
    def precision(self) -> str:
        """The leader's."""
        return self.form.precision

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, N) for x (…, K)."""
        return _second_product(self, x, quantizer=self.leader.latent_quantizer)

    def product(self) -> Tensor:
        """The weight (N, K) that the factors stand for, in fp64."""
        return _whole_up(self, self.leader.latent_quantizer) @ self.whole_down()


def _second_product(layer: Any, x: Tensor, *, quantizer: Any) -> Tensor:
    rounded = quantizer(layer.latent(x))
    weight = _matrix(layer, "weight", columns=layer.rank, dtype=rounded.dtype)
    return _integer_product(rounded, weight, bias=layer.bias)


def _whole_up(layer: Any, quantizer: Any) -> Tensor:
    """The up factor (N, r) in fp64."""
    up = _matrix(layer, "weight", columns=layer.rank, dtype=torch.float64)
    return unsmoothed(up, quantizer)
