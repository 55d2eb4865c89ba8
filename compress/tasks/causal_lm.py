"""Causal language models: cross-entropy, true Fisher with labels sampled from the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.auto import modeling_auto as auto

from autotune.compress.positions import POSITIONS, mask_positions, takes_positions
from autotune.compress.tasks.base import MASK, Batch, Task, model_inputs
from autotune.core.types import Workload


class CausalLM(Task):
    """Loss: next-token cross-entropy in nats. Quality: perplexity on held-out text."""

    name = "causal-lm"
    pipeline_tag = "text-generation"
    auto_class = "AutoModelForCausalLM"
    architectures = ("ForCausalLM", "LMHeadModel")
    has_decode = True
    reads_windows = True
    default_metric = "kfac"
    output_name = "logits"
    metric = "perplexity"
    higher_is_better = False
    needs_reference = False

    @classmethod
    def has_type(cls, config: Any) -> bool:
        """Types that have a causal and no masked head, where no architecture is named."""
        kind = config.model_type
        causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        return causal and not masked and not config.architectures

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits, (batch, sequence, vocabulary)."""
        inputs = dict(batch)
        if takes_positions(model):  # as `generate` does it, right for padding on either side
            inputs[POSITIONS] = mask_positions(batch[MASK])
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits

    def plain(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits, (batch, sequence, vocabulary), with the model's own positions and cache."""
        logits: Tensor = model(**batch).logits
        return logits

    def curvature_signals(
        self, output: Tensor, batch: Batch, *, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """One scalar: summed cross-entropy against labels drawn from the model (true Fisher)."""
        rows = output[batch[MASK].bool()].float()
        with torch.no_grad():
            labels = torch.multinomial(rows.softmax(-1), 1, generator=generator).squeeze(1)
        yield functional.cross_entropy(rows, labels, reduction="sum")

    def items(self, output: Tensor, batch: Batch) -> int:
        """The number of tokens, without padding."""
        del output
        return int(batch[MASK].sum())

    def loss(self, output: Tensor, reference: Tensor, *, batch: Batch) -> tuple[Tensor, int]:
        """Cross-entropy of the next token, shape (), summed over tokens; their number."""
        del reference
        keep = batch[MASK][:, 1:].bool()
        rows = output[:, :-1][keep].float()
        labels = batch["input_ids"][:, 1:][keep]
        return functional.cross_entropy(rows, labels, reduction="sum"), labels.numel()

    def figure(self, mean_loss: float) -> float:
        """The perplexity of a mean loss; infinite where it would overflow."""
        return math.exp(mean_loss) if mean_loss < 700 else math.inf

    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random token ids and a mask, (batch, sequence)."""
        return model_inputs(model, workload)

    def protocol(self, batches: Sequence[Batch]) -> str:
        """The window, the stride and the tokens that were judged, in words."""
        window = batches[0]["input_ids"].shape[1]
        tokens = sum(int(batch[MASK][:, 1:].sum()) for batch in batches)
        return f"perplexity, non-overlapping windows of {window} tokens, {tokens} tokens predicted"
