"""Encoders: the pooled, normalised output, compared with the dense model's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.compress.tasks.base import MASK, Batch, Task, model_inputs
from autotune.core.types import Workload


class Embedding(Task):
    """Loss: 1 − cosine to the dense embedding. Quality: the mean cosine on held-out inputs.

    Curvature: with e the unit embedding, 1 − cos = ½‖Δe‖², so the Gauss–Newton matrix is JᵀJ,
    estimated by E_v[(Jᵀv)(Jᵀv)ᵀ] with Gaussian v (Hutchinson's random projections). One projection
    of many sequences serves better than several of few (0.964 against 0.954 at equal cost).
    """

    name = "embedding"
    output_name = "last_hidden_state"
    metric = "cosine"
    higher_is_better = True

    def __init__(self, pooling: str = "mean", projections: int = 1) -> None:
        self.pooling = pooling
        self.projections = projections

    @classmethod
    def has_type(cls, config: Any) -> bool:
        """Whatever nothing else is known of."""
        del config
        return True

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """With the pooling that the folder says."""
        return cls(folder_pooling(folder))

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """Hidden states, (batch, sequence, features)."""
        hidden: Tensor = model(**batch).last_hidden_state
        return hidden

    def embed(self, output: Tensor, batch: Batch) -> Tensor:
        """Unit embeddings, (batch, features), by the model's own pooling."""
        if self.pooling == "cls":
            pooled = output[:, 0]
        elif MASK in batch:
            mask = batch[MASK].unsqueeze(-1).to(output.dtype)
            pooled = (output * mask).sum(1) / mask.sum(1)
        else:
            pooled = output.flatten(1, -2).mean(1)
        return functional.normalize(pooled.float(), dim=-1)

    def reduce(self, output: Tensor, batch: Batch) -> Tensor:
        """Keep embeddings, not hidden states."""
        return self.embed(output, batch)

    def curvature_signals(
        self, output: Tensor, batch: Batch, *, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Random projections of the embeddings, summed over the batch."""
        embedded = self.embed(output, batch)
        for _ in range(self.projections):
            direction = torch.randn(embedded.shape, generator=generator)
            yield (embedded * direction.to(embedded.device)).sum()

    def loss(self, output: Tensor, reference: Tensor, *, batch: Batch) -> tuple[Tensor, int]:
        """1 − cosine, summed over sequences."""
        cosine = (self.embed(output, batch) * reference).sum(-1)
        return (1.0 - cosine).sum(), cosine.numel()

    def figure(self, mean_loss: float) -> float:
        """The mean cosine between both models' embeddings."""
        return 1.0 - mean_loss

    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random token ids and mask, or pixels."""
        return model_inputs(model, workload)


def folder_pooling(folder: Path) -> str:
    """`cls` or `mean`, as the folder's sentence-transformers pooling says; mean without one."""
    config = folder / "1_Pooling" / "config.json"
    if config.is_file() and json.loads(config.read_text()).get("pooling_mode_cls_token"):
        return "cls"
    return "mean"
