"""How long a sequence a model takes."""

from __future__ import annotations

from typing import Any

from torch import nn

_TABLES = ("position_embeddings", "embed_positions")


def max_positions(model: nn.Module) -> int | None:
    """The most tokens of a sequence, by the model's table of positions; None without a limit.

    RoBERTa and its kin count positions from their padding token on, so those before it are lost.
    """
    config: Any = model.config
    limit: int | None = getattr(config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if limit is None or not isinstance(module, nn.Embedding) or module.padding_idx is None:
            continue
        if name.rpartition(".")[2] in _TABLES:
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    return limit
