"""How factors are stored: whole precision, half, or Dobi's 8-bit remapping.

Storage changes neither FLOPs nor the latency of a layer: factors are widened to the model's dtype
when they are loaded. Stored and computed sizes are therefore told apart everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autotune.compress.lowrank import LowRankLinear

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Remapped:
    """Two factors in 8 bits: value = code · scale.

    `codes` int8 (2, min(N, K), r): the longer factor's head, then the shorter factor; `tail` fp16
    (|N − K|, r); `scales` fp16 (2, r).
    """

    codes: Tensor = field(repr=False)
    tail: Tensor = field(repr=False)
    scales: Tensor = field(repr=False)


def remap(up: Tensor, down: Tensor) -> Remapped:
    """Quantize up (N, r) and down (r, K), absmax per rank column."""
    long, short = (up, down.T) if up.shape[0] >= down.shape[1] else (down.T, up)
    rows = short.shape[0]
    blocks = torch.stack([long[:rows], short]).float()
    wanted = blocks.abs().amax(1) / 127.0
    scales = wanted.half()
    # Rounding to fp16 must not push the largest value past 127 steps; no scale may be zero.
    scales = torch.where(scales.float() < wanted, torch.nextafter(scales, scales + 1), scales)
    scales = torch.where(scales == 0, torch.full_like(scales, 2**-24), scales)
    codes = (blocks / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return Remapped(codes=codes, tail=long[rows:].half(), scales=scales)


def unmap(packed: Remapped, *, out_features: int, in_features: int) -> tuple[Tensor, Tensor]:
    """Up (N, r) and down (r, K) in fp32."""
    head, short = packed.codes.float() * packed.scales.float()[:, None]
    long = torch.cat([head, packed.tail.float()])
    up, down_t = (long, short) if out_features >= in_features else (short, long)
    return up.contiguous(), down_t.T.contiguous()


def round_trip(storage: str, *, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The factors as they will be after storing and loading, in their own dtype."""
    if storage == "remap8":
        loaded = unmap(remap(up, down), out_features=up.shape[0], in_features=down.shape[1])
        return loaded[0].to(up.dtype), loaded[1].to(down.dtype)
    if storage in _HALF:
        half = _HALF[storage]
        return up.to(half).to(up.dtype), down.to(half).to(down.dtype)
    return up, down


class StoredLowRank(nn.Module):
    """A low-rank layer as it lies on disk; `widen` makes the layer that computes.

    Its first tensor keeps the name `weight` with another shape than the dense one, so that a reader
    which does not know the layout fails instead of initialising at random.
    """

    def __init__(
        self,
        storage: str,
        *,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.storage = storage
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        least = min(in_features, out_features)
        most = max(in_features, out_features)
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "weight": ((2 * least, rank), torch.int8),
            "weight_tail": ((most - least, rank), torch.float16),
            "weight_scales": ((2, rank), torch.float16),
        }
        if storage != "remap8":
            half = _HALF[storage]
            shapes = {
                "weight": ((out_features, rank), half),
                "weight_down": ((rank, in_features), half),
            }
        for name, (shape, kind) in shapes.items():
            empty = torch.empty(shape, dtype=kind, device="meta")
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        empty = torch.empty(out_features, dtype=dtype, device="meta")
        self.bias = nn.Parameter(empty, requires_grad=False) if bias else None

    @staticmethod
    def of(layer: LowRankLinear, storage: str) -> StoredLowRank:
        """The layer with its factors packed as `storage` says."""
        stored = StoredLowRank(
            storage,
            in_features=layer.in_features,
            out_features=layer.out_features,
            rank=layer.rank,
            bias=layer.bias is not None,
            dtype=layer.weight.dtype,
        )
        up, down = layer.weight.detach(), layer.weight_down.detach()
        if storage == "remap8":
            packed = remap(up, down)
            values = {
                "weight": packed.codes.flatten(0, 1),
                "weight_tail": packed.tail,
                "weight_scales": packed.scales,
            }
        else:
            half = _HALF[storage]
            values = {"weight": up.to(half), "weight_down": down.to(half)}
        if layer.bias is not None:
            values["bias"] = layer.bias.detach()
        for name, value in values.items():
            setattr(stored, name, nn.Parameter(value.contiguous(), requires_grad=False))
        return stored

    def widen(self, dtype: torch.dtype) -> LowRankLinear:
        """The layer that computes, in the model's dtype."""
        layer = LowRankLinear(
            self.in_features,
            self.out_features,
            rank=self.rank,
            bias=self.bias is not None,
            device="meta",
            dtype=dtype,
        )
        tensors: dict[str, Tensor] = {n: p.detach() for n, p in self.named_parameters()}
        if self.storage == "remap8":
            packed = Remapped(
                codes=tensors["weight"].unflatten(0, (2, -1)),
                tail=tensors["weight_tail"],
                scales=tensors["weight_scales"],
            )
            up, down = unmap(packed, out_features=self.out_features, in_features=self.in_features)
        else:
            up, down = tensors["weight"], tensors["weight_down"]
        layer.weight = nn.Parameter(up.to(dtype))
        layer.weight_down = nn.Parameter(down.to(dtype))
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().to(dtype))
        return layer
