"""Classifiers: distance of the predicted distribution from the dense model's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.compress.tasks.base import Batch, Task, model_inputs
from autotune.core.types import Workload


class Classification(Task):
    """Loss: KL(dense ‖ compressed) in nats. Quality: exp(−KL), 1 when nothing changed.

    No labels are needed, so any inputs of the right kind calibrate it; curvature is the true
    Fisher with labels sampled from the model.
    """

    name = "classification"
    auto_class = "AutoModelForSequenceClassification"
    architectures = ("ForSequenceClassification",)
    output_name = "logits"
    metric = "exp(-KL to dense)"
    higher_is_better = True

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits of the classes, shape (batch, classes)."""
        logits: Tensor = model(**batch).logits
        return logits

    def curvature_signals(
        self, output: Tensor, batch: Batch, *, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Cross-entropy against labels drawn from the model, four draws."""
        del batch
        probabilities = output.detach().float().softmax(-1)
        for _ in range(4):
            labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
            yield functional.cross_entropy(output.float(), labels, reduction="sum")

    def loss(self, output: Tensor, reference: Tensor, *, batch: Batch) -> tuple[Tensor, int]:
        """KL divergence from the dense distribution, summed over inputs."""
        del batch
        dense, ours = reference.float().log_softmax(-1), output.float().log_softmax(-1)
        divergence = functional.kl_div(ours, dense, reduction="sum", log_target=True)
        return divergence, output.shape[0]

    def figure(self, mean_loss: float) -> float:
        """exp(−KL), 1 where both models agree."""
        return float(torch.tensor(-mean_loss).exp())

    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random token ids and mask, or pixels."""
        return model_inputs(model, workload)


class ImageClassification(Classification):
    """Classes of images, judged as those of texts are."""

    name = "image-classification"
    auto_class = "AutoModelForImageClassification"
    architectures = ("ForImageClassification",)
