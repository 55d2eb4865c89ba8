"""Classifiers and scorers: distance of the answers from the dense model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autotune.compress.tasks.base import Batch, model_inputs
from autotune.compress.tasks.labelled import LabelledTask
from autotune.core.errors import ModelError, foreign_code
from autotune.core.types import Workload


class Classification(LabelledTask):
    """Loss and quality by what the labels mean: `autotune.compress.tasks.distances`.

    No labels are needed, so any inputs of the right kind calibrate it.
    """

    name = "classification"
    pipeline_tag = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    architectures = ("ForSequenceClassification",)

    def check_model(self, model: nn.Module) -> None:
        """Refuse a classifier that finds the last token of a sequence by a padding it lacks."""
        config: Any = model.config
        if getattr(config.get_text_config(), "pad_token_id", None) is not None:
            return
        name = type(model).__name__
        with torch.no_grad(), foreign_code(f"{name} does not run on two short sequences: <why>"):
            shape = Workload(batch_size=2, sequence_length=2)
            try:
                self.output(model, self.example_inputs(model, shape))
            except ValueError as error:
                raise ModelError(
                    f"config.json names no pad_token_id, so {name} takes no more than one sequence "
                    f"at a time ({error}), which neither calibration nor an exported graph can do "
                    "with; set pad_token_id there to that of the tokenizer"
                ) from error

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits of the labels, (batch, labels)."""
        logits: Tensor = model(**batch).logits
        return logits

    def curvature_signals(
        self, output: Tensor, batch: Batch, *, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Scalars whose gradients have the curvature of the distance as covariance."""
        del batch
        yield from self.distance.signals(output, generator)

    def loss(self, output: Tensor, reference: Tensor, *, batch: Batch) -> tuple[Tensor, int]:
        """Distance to the dense logits, shape (), summed over the batch; its size."""
        del batch
        return self.distance.between(output, reference), output.shape[0]

    def scale(self, references: Sequence[Tensor | None], batches: Sequence[Batch]) -> float:
        """The unit of the distance, from the dense logits (batch, labels) of all batches."""
        del batches
        return self.distance.scale([each for each in references if each is not None])

    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random token ids and mask (batch, sequence), or pixels."""
        return model_inputs(model, workload)


class ImageClassification(Classification):
    """Classes of images, judged as those of texts are."""

    name = "image-classification"
    pipeline_tag = "image-classification"
    auto_class = "AutoModelForImageClassification"
    architectures = ("ForImageClassification",)

    def check_model(self, model: nn.Module) -> None:
        """Accept any: images have no padding."""
        del model
