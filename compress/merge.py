"""The dense equivalent of a factorized model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autotune.compress.integer_layers import IntegerLinear
from autotune.compress.lowrank import LowRankLinear, replace_modules


def merge_low_rank(model: Any) -> None:
    """Multiply every pair out, in fp64, into the dense layer that the architecture has there."""
    with torch.device("meta"):
        stock = type(model)(_plain(model.config))
    merged: dict[str, nn.Module] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LowRankLinear | IntegerLinear):
            merged[name] = _dense(layer, stock.get_submodule(name))
    replace_modules(model, merged)
    model.config = _plain(model.config)
    model.hf_quantizer = None
    for mark in ("is_quantized", "quantization_method"):
        model.__dict__.pop(mark, None)


def _plain(config: Any) -> Any:
    """The configuration without what says that layers are factorized."""
    plain = copy.deepcopy(config)
    for name in ("quantization_config", "auto_map"):
        if hasattr(plain, name):
            delattr(plain, name)
    return plain


def _dense(layer: LowRankLinear | IntegerLinear, like: Any) -> nn.Module:
    kind = layer.weight.dtype if layer.weight.dtype.is_floating_point else like.weight.dtype
    weight = layer.product().to(kind)
    dense: Any = copy.deepcopy(like)  # on meta: it costs nothing
    dense.weight = nn.Parameter((weight.T if isinstance(like, Conv1D) else weight).contiguous())
    if layer.bias is not None:
        dense.bias = nn.Parameter(layer.bias.detach())
    merged: nn.Module = dense.train(layer.training)
    return merged
