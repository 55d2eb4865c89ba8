"""One decode step of a decoder: a new token per sequence against cached keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autotune.compress.tasks.base import MASK

PAST = "past_key_values"
POSITIONS = "position_ids"


def decode_step(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Logits (batch, 1, vocabulary) and the present keys and values, layer by layer.

    `inputs`: `input_ids` (batch, 1), `attention_mask` (batch, past + 1) and
    `past_key_values.<layer>.key` and `.value`, (batch, key-value heads, past, head size) each;
    `position_ids` (batch, 1) instead of a mask where nothing is masked.
    """
    from transformers import DynamicCache

    input_ids, mask = inputs["input_ids"], inputs.get(MASK)
    cache = DynamicCache()
    for layer in range(sum(name.startswith(PAST) for name in inputs) // 2):
        key, value = (inputs[f"{PAST}.{layer}.{kind}"] for kind in ("key", "value"))
        cache.update(key, value, layer)
    positions = inputs[POSITIONS] if mask is None else step_positions(mask, input_ids)
    found = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    layers = found.past_key_values.layers
    return (found.logits, *(t for layer in layers for t in (layer.keys, layer.values)))


def step_positions(mask: Tensor, input_ids: Tensor) -> Tensor:
    """Positions of the new tokens, (batch, 1).

    A row for every sequence: the exported RotaryEmbedding does not broadcast, and padding on the
    left shifts them.
    """
    return (mask.cumsum(-1) - 1)[:, -input_ids.shape[1] :].clamp_min(0)


def decode_inputs(model: nn.Module, batch_size: int, *, past_length: int) -> dict[str, Tensor]:
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
            inputs[f"{PAST}.{layer}.{kind}"] = values
    return inputs
