"""The decode graph of a decoder: one new token per sequence against cached keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from autotune.compress.onnx_export import save_onnx
from autotune.compress.onnx_trace import trace
from autotune.compress.tasks.base import MASK
from autotune.types import Site


class _Decode(nn.Module):
    """(input_ids, attention_mask, past keys and values…) to (logits, present keys and values…)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.wrapped = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        input_ids, mask, *past = inputs
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        # A row of positions per sequence: the exported RotaryEmbedding does not broadcast, and
        # padding on the left shifts them.
        positions = (mask.cumsum(-1) - 1)[:, -input_ids.shape[1] :].clamp_min(0)
        found = self.wrapped(
            input_ids=input_ids, attention_mask=mask, position_ids=positions,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        layers = found.past_key_values.layers
        return (found.logits, *(t for layer in layers for t in (layer.keys, layer.values)))


def decode_inputs(model: nn.Module, batch_size: int, past_length: int) -> dict[str, Tensor]:
    """Random token ids (batch, 1), mask and past keys and values, with a fixed seed."""
    config: Any = model.config
    text = config.get_text_config()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    inputs = {
        "input_ids": torch.randint(0, text.vocab_size, (batch_size, 1), generator=generator),
        MASK: torch.ones(batch_size, past_length + 1, dtype=torch.long),
    }
    shape = (batch_size, kv_heads, past_length, size)
    for layer in range(text.num_hidden_layers):
        for kind in ("key", "value"):
            values = torch.randn(shape, generator=generator).to(dtype)
            inputs[f"past_key_values.{layer}.{kind}"] = values
    return inputs


def export_decode(
    model: nn.Module, sites: Sequence[Site], path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:  # fmt: skip
    """Write the dense decode graph to `path`, with dynamic batch and past length.

    Sites are named as in the dense graph of whole sequences, so the same plan rewrites both.

    Raises:
        ModelError: the model does not trace, or a site has no single matrix product in the graph.
    """
    inputs = decode_inputs(model, 2, 5)
    past = [name for name in inputs if name.startswith("past")]
    dynamic = [{0: "batch"}, {0: "batch", 1: "total_length"}]
    dynamic += [{0: "batch", 2: "past_length"} for _ in past]
    outputs = ["logits", *(name.replace("past_key_values", "present") for name in past)]
    save_onnx(trace(_Decode(model), inputs, dynamic, outputs, sites, progress), path)
