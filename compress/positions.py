"""Positions of tokens as transformers counts them."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

POSITIONS = "position_ids"
_TABLES = ("position_embeddings", "embed_positions")
_TYPES = "token_type_embeddings"


def _padded_table(model: nn.Module) -> nn.Embedding | None:
    """The table of positions that has a row for padding, as RoBERTa and its kin have it."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or module.padding_idx is None:
            continue
        if name.rpartition(".")[2] in _TABLES:
            return module
    return None


def first_position(model: nn.Module) -> int:
    """The position of a sequence's first token: 0, or behind the row of padding in the table."""
    table = _padded_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def max_positions(model: nn.Module) -> int | None:
    """The most tokens of a sequence, by the model's table of positions; None without a limit.

    RoBERTa and its kin count positions from their padding token on, so those before it are lost.
    """
    return _limit(model, model.config)


def max_text_positions(model: nn.Module) -> int | None:
    """`max_positions` of the text, also where it is not all that the model takes, as with CLIP."""
    config: Any = model.config
    return _limit(model, config.get_text_config())


def stated_positions(config: Any) -> int | None:
    """The most tokens of a sequence by a configuration alone; None without a limit."""
    limit: int | None = getattr(config, "max_position_embeddings", None)
    return None if limit is None or limit < 0 else limit  # XLNet says -1


def _limit(model: nn.Module, config: Any) -> int | None:
    limit = stated_positions(config)
    table = _padded_table(model)
    if limit is None or table is None:
        return limit
    return min(limit, table.num_embeddings - first_position(model))


def token_types(model: nn.Module) -> int | None:
    """How many types of tokens the model has a table for; None without such a table."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] == _TYPES:
            return module.num_embeddings
    return None


def takes_positions(model: nn.Module) -> bool:
    """Whether whole sequences may be given positions that start at 0."""
    return POSITIONS in inspect.signature(model.forward).parameters and not first_position(model)


def mask_positions(mask: Tensor) -> Tensor:
    """Positions of every token, (batch, sequence): padding on the left does not count.

    `generate` of transformers passes them; a plain call counts the padding, which is the same
    unless the model has a table of positions.
    """
    return (mask.cumsum(-1) - 1).clamp_min(0)
