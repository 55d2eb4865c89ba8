"""One decode step of a decoder: a new token per sequence against cached keys and values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autotune.compress.positions import POSITIONS, first_position, mask_positions
from autotune.compress.tasks.base import MASK
from autotune.core.errors import ModelError, foreign_code, option_name

PAST = "past_key_values"
_LENGTH = 2  # the dimension of keys and values that grows


def decode_step(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Logits (batch, 1, vocabulary) and the present keys and values, layer by layer.

    `inputs`: `input_ids` (batch, 1), `attention_mask` (batch, past + 1) and
    `past_key_values.<layer>.key` and `.value`, as `decode_inputs` has them; `position_ids`
    (batch, 1) instead of a mask where nothing is masked.
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
        past_key_values=cache,
        use_cache=True,
        **_given(model, positions),
    )
    layers = found.past_key_values.layers
    return (found.logits, *(t for layer in layers for t in (layer.keys, layer.values)))


def _given(model: nn.Module, positions: Tensor) -> dict[str, Tensor]:
    """`positions`, counted from 0, as the model takes them, if it does."""
    if POSITIONS not in inspect.signature(model.forward).parameters:
        return {}
    return {POSITIONS: positions + first_position(model)}


def step_positions(mask: Tensor, input_ids: Tensor) -> Tensor:
    """Positions of the new tokens, (batch, 1), counted from 0."""
    return mask_positions(mask)[:, -input_ids.shape[1] :]


@torch.no_grad()
def cached(model: nn.Module, input_ids: Tensor, *, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Keys and values, by the names of the decode step's inputs, after a pass over `input_ids`.

    Raises:
        ModelError: the model's cache holds anything else.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    mask = torch.ones_like(input_ids) if mask is None else mask
    inputs = {"input_ids": input_ids, MASK: mask, **_given(model, mask_positions(mask))}
    with foreign_code(str(_no_step("<why>"))):
        found = model(**inputs, past_key_values=DynamicCache(), use_cache=True)
        layers = found.past_key_values.layers
    values: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        for kind in ("key", "value"):
            tensor = getattr(layer, f"{kind}s", None)
            if type(layer) is not DynamicLayer or tensor is None or tensor.ndim != 4:
                raise _no_step(f"layer {number} of its cache holds no keys and values")
            if tensor.shape[_LENGTH] != input_ids.shape[1]:
                raise _no_step(f"layer {number} of its cache does not hold one entry per token")
            values[f"{PAST}.{number}.{kind}"] = tensor
    if not values:
        raise _no_step("it caches no keys and values")
    return values


def _no_step(why: str) -> ModelError:
    return ModelError(
        f"decode steps are only supported where every layer caches keys and values, which this "
        f"model does not ({why}); leave out {option_name('workload.output_length')} and use "
        f"{option_name('workload.phase')} prefill"
    )


def decode_inputs(model: nn.Module, batch_size: int, *, past_length: int) -> dict[str, Tensor]:
    """Random token ids (batch, 1), mask and past keys and values, with a fixed seed.

    Keys and values have the shapes of the model's own cache, (batch, heads, past, size) of every
    layer; of latent attention these are the latents.

    Raises:
        ModelError: the model's cache holds anything else.
    """
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    vocabulary = config.get_text_config().vocab_size
    inputs = {
        "input_ids": torch.randint(0, vocabulary, (batch_size, 1), generator=generator),
        MASK: torch.ones(batch_size, past_length + 1, dtype=torch.long),
    }
    for name, one in cached(model, torch.zeros(1, 2, dtype=torch.long)).items():
        _, heads, _, size = one.shape
        shape = (batch_size, heads, past_length, size)
        inputs[name] = torch.randn(shape, generator=generator).to(one.dtype)
    return inputs
