"""Heads that answer for every token: token classification, masked words, spans of an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from autotune.compress.tasks.base import MASK, Batch, Task, text_inputs, vocabulary_size
from autotune.compress.tasks.distances import Choice
from autotune.compress.tasks.labelled import LabelledTask
from autotune.core.errors import ModelError
from autotune.core.types import Workload

_EVERY = 7  # the distance of masked tokens in random inputs, about 15 %


class TokenClassification(LabelledTask):
    """A label for every token: the distance of its logits to the dense model's, by token."""

    name = "token-classification"
    pipeline_tag = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    architectures = ("ForTokenClassification",)
    default_metric = "kfac"

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits of the labels, (batch, sequence, labels)."""
        logits: Tensor = model(**batch).logits
        return logits

    def curvature_signals(
        self, output: Tensor, batch: Batch, *, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """The scalars of the distance, over the tokens that are not padding."""
        yield from self.distance.signals(output[batch[MASK].bool()], generator)

    def items(self, output: Tensor, batch: Batch) -> int:
        """The number of tokens, without padding."""
        del output
        return int(batch[MASK].sum())

    def loss(self, output: Tensor, reference: Tensor, *, batch: Batch) -> tuple[Tensor, int]:
        """Distance to the dense logits, shape (), summed over tokens; their number."""
        keep = batch[MASK].bool()
        return self.distance.between(output[keep], reference[keep]), int(keep.sum())

    def scale(self, references: Sequence[Tensor | None], batches: Sequence[Batch]) -> float:
        """The unit of the distance, from the dense logits of the tokens that are not padding."""
        pairs = zip(references, batches, strict=True)
        return self.distance.scale([r[b[MASK].bool()] for r, b in pairs if r is not None])

    def judged(self, output: Tensor, reference: Tensor, *, batch: Batch) -> Tensor:
        """The logits of the tokens that are no padding, (tokens, 1, labels)."""
        del output
        return reference[batch[MASK].bool()].unsqueeze(1)

    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random token ids and a mask, (batch, sequence)."""
        return text_inputs(vocabulary_size(model.config), workload)

    def protocol(self, batches: Sequence[Batch]) -> str:
        """The sequences and the tokens that were judged, in words."""
        tokens = sum(int(batch[MASK].sum()) for batch in batches)
        return f"{super().protocol(batches)}, {tokens} tokens"


class MaskedLM(Task):
    """Words at the tokens that are masked: KL(dense ‖ compressed) in nats, by masked token.

    exp(KL) is how much the perplexity of the masked words rises where the dense model is right.
    """

    name = "masked-lm"
    pipeline_tag = "fill-mask"
    auto_class = "AutoModelForMaskedLM"
    architectures = ("ForMaskedLM",)
    output_name = "logits"
    metric = "exp(KL to dense)"
    higher_is_better = False
    default_metric = "kfac"
    # The dense logits of all masked tokens are kept, and vocabularies are large.
    default_samples = (1024, 64, 64)
    masks_tokens = True

    def __init__(self, mask_token_id: int) -> None:
        self.mask_token_id = mask_token_id
        self._distance = Choice()

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The task with the tokenizer's mask token.

        Raises:
            ModelError: there is none.
        """
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if tokenizer.mask_token_id is None:
            raise ModelError(
                f"the tokenizer of {folder} has no mask token, so the model cannot be judged by "
                "the words that it puts there; name it in tokenizer_config.json"
            )
        return cls(tokenizer.mask_token_id)

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model that has no embedding of the mask token."""
        size = vocabulary_size(model.config)
        if self.mask_token_id >= size:
            raise ModelError(
                f"the tokenizer's mask token is {self.mask_token_id} and the model's embedding has "
                f"{size} tokens; use the tokenizer that the model was trained with"
            )

    @property
    def setup(self) -> Mapping[str, Any]:
        """The mask token, which decides the tokens that are judged."""
        return {"mask_token_id": self.mask_token_id}

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits, (batch, sequence, vocabulary)."""
        logits: Tensor = model(**batch).logits
        return logits

    def _masked(self, batch: Batch) -> Tensor:
        return (batch["input_ids"] == self.mask_token_id) & batch[MASK].bool()

    def curvature_signals(
        self, output: Tensor, batch: Batch, *, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Four scalars: cross-entropy at the masked tokens against words drawn from the model."""
        yield from self._distance.signals(output[self._masked(batch)], generator)

    def items(self, output: Tensor, batch: Batch) -> int:
        """The number of masked tokens."""
        del output
        return int(self._masked(batch).sum())

    def reduce(self, output: Tensor, batch: Batch) -> Tensor:
        """The logits of each row's masked tokens, (batch, most masked in a row, vocabulary)."""
        found = self._masked(batch)
        most = int(found.sum(1).max())
        order = found.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        return output.gather(1, order.unsqueeze(-1).expand(-1, -1, output.shape[-1]))

    def loss(self, output: Tensor, reference: Tensor, *, batch: Batch) -> tuple[Tensor, int]:
        """KL divergence from the dense model, shape (), summed over masked tokens; their number."""
        counts = self._masked(batch).sum(1, keepdim=True)
        ours = self.reduce(output, batch)
        keep = torch.arange(ours.shape[1], device=ours.device) < counts
        dense = reference[:, : ours.shape[1]]
        return self._distance.between(ours[keep], dense[keep]), int(counts.sum())

    def figure(self, mean_loss: float) -> float:
        """exp(KL), 1 where both models agree; infinite where it would overflow."""
        return math.exp(mean_loss) if mean_loss < 700 else math.inf

    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random token ids, some of them masked, and a mask of ones, (batch, sequence)."""
        inputs = text_inputs(vocabulary_size(model.config), workload)
        inputs["input_ids"][:, ::_EVERY] = self.mask_token_id
        return inputs

    def protocol(self, batches: Sequence[Batch]) -> str:
        """The sequences and the masked tokens that were judged, in words."""
        tokens = sum(int(self._masked(batch).sum()) for batch in batches)
        return f"{super().protocol(batches)}, {tokens} masked tokens"


class QuestionAnswering(Task):
    """Where an answer starts and where it ends: KL(dense ‖ compressed) of both, in nats."""

    name = "question-answering"
    pipeline_tag = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    architectures = ("ForQuestionAnswering",)
    output_name = "logits"
    metric = "exp(-KL to dense)"
    higher_is_better = True

    def __init__(self) -> None:
        self._distance = Choice()

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits of start and end, (batch, sequence, 2)."""
        found = model(**batch)
        return torch.stack([found.start_logits, found.end_logits], dim=-1)

    def _by_position(self, output: Tensor, batch: Batch) -> Tensor:
        """(2 · batch, sequence): one choice among the tokens that are no padding per row."""
        hidden = (batch[MASK] == 0).unsqueeze(-1)
        # Finite, as −inf has no difference to itself.
        return output.float().masked_fill(hidden, -1e4).mT.flatten(0, 1)

    def curvature_signals(
        self, output: Tensor, batch: Batch, *, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Four scalars: cross-entropy against starts and ends drawn from the model."""
        yield from self._distance.signals(self._by_position(output, batch), generator)

    def items(self, output: Tensor, batch: Batch) -> int:
        """The number of positions: a start and an end for every sequence."""
        del batch
        return 2 * output.shape[0]

    def loss(self, output: Tensor, reference: Tensor, *, batch: Batch) -> tuple[Tensor, int]:
        """KL divergence, shape (), summed over starts and ends; their number."""
        ours, dense = (self._by_position(each, batch) for each in (output, reference))
        return self._distance.between(ours, dense), len(ours)

    def figure(self, mean_loss: float) -> float:
        """exp(−KL), 1 where both models agree."""
        return self._distance.figure(mean_loss)

    def judged(self, output: Tensor, reference: Tensor, *, batch: Batch) -> Tensor:
        """The logits of the tokens that are no padding, (tokens, 1, 2)."""
        del output
        return reference[batch[MASK].bool()].unsqueeze(1)

    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random token ids and a mask, (batch, sequence)."""
        return text_inputs(vocabulary_size(model.config), workload)
