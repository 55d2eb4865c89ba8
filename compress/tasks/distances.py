"""How far the answers of a head are from the dense model's, by what the answers mean."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autotune.core.errors import CalibrationError

_DRAWS = 4


class Distance(ABC):
    """A distance between answers (items, labels), with the curvature that goes with it.

    The gradients g of a signal satisfy E[g gᵀ] = Hessian of `between`, summed over the items, at
    equal answers.
    """

    name: str
    metric: str

    @abstractmethod
    def between(self, ours: Tensor, dense: Tensor) -> Tensor:
        """The distance of answers (items, labels), shape (), summed over items.

        It is differentiable in `ours`.
        """

    @abstractmethod
    def signals(self, answers: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Scalars whose gradients at the answers (items, labels) have the distance's curvature."""

    @abstractmethod
    def figure(self, mean: float) -> float:
        """The quality figure of a mean distance, taken in units of `scale`; 1 where it is 0."""

    def scale(self, dense: Sequence[Tensor]) -> float:
        """The unit of the mean in `figure`, from all dense answers, tensors (items, labels)."""
        del dense
        return 1.0


class Choice(Distance):
    """Labels that exclude each other (softmax): KL(dense ‖ compressed) in nats."""

    name = "choice"
    metric = "exp(-KL to dense)"

    def between(self, ours: Tensor, dense: Tensor) -> Tensor:
        """KL divergence from the dense distribution, shape (), summed over items."""
        ours, dense = ours.float().log_softmax(-1), dense.float().log_softmax(-1)
        return functional.kl_div(ours, dense, reduction="sum", log_target=True)

    def signals(self, answers: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Cross-entropy against labels drawn from the model: four scalars (the true Fisher)."""
        probabilities = answers.detach().float().softmax(-1)
        for _ in range(_DRAWS):
            labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
            yield functional.cross_entropy(answers.float(), labels, reduction="sum")

    def figure(self, mean: float) -> float:
        """exp(−KL), 1 where both models agree."""
        return math.exp(-mean)


class Independent(Distance):
    """Labels that hold or not, each for itself (sigmoid): KL(dense ‖ compressed) in nats."""

    name = "independent"
    metric = "exp(-KL to dense)"

    def between(self, ours: Tensor, dense: Tensor) -> Tensor:
        """KL divergence, shape (), summed over labels and items."""
        ours, dense = ours.float(), dense.float()
        likely = dense.sigmoid()
        yes = likely * (functional.logsigmoid(dense) - functional.logsigmoid(ours))
        no = (1 - likely) * (functional.logsigmoid(-dense) - functional.logsigmoid(-ours))
        return (yes + no).sum()

    def signals(self, answers: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Cross-entropy of every label against answers drawn from the model: four scalars."""
        probabilities = answers.detach().float().sigmoid()
        for _ in range(_DRAWS):
            labels = torch.bernoulli(probabilities, generator=generator)
            yield functional.binary_cross_entropy_with_logits(
                answers.float(), labels, reduction="sum"
            )

    def figure(self, mean: float) -> float:
        """exp(−KL), 1 where both models agree."""
        return math.exp(-mean)


class Score(Distance):
    """Numbers (rerankers, reward models, regression): half the squared difference.

    The figure relates it to the spread of the dense scores: R² = 1 − mean square difference /
    variance, 1 where both models agree and 0 where a constant would do as well.
    """

    name = "score"
    metric = "R2 to dense"

    def between(self, ours: Tensor, dense: Tensor) -> Tensor:
        """½‖ours − dense‖², shape (), summed over scores and items."""
        return 0.5 * (ours.float() - dense.float()).square().sum()

    def signals(self, answers: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Random projections of the scores (items, labels): four scalars."""
        for _ in range(_DRAWS):
            direction = torch.randn(answers.shape, generator=generator)
            yield (answers.float() * direction.to(answers.device)).sum()

    def figure(self, mean: float) -> float:
        """R² of the scores against the dense model's."""
        return 1.0 - 2.0 * mean

    def scale(self, dense: Sequence[Tensor]) -> float:
        """The variance of the dense scores, summed over the labels.

        Raises:
            CalibrationError: it is 0.
        """
        found = float(torch.cat([each.double() for each in dense]).var(0, correction=0).sum())
        if not found:
            raise CalibrationError(
                "the model gives all held-out data the same score, so there is no spread of the "
                "scores to compare with; give more held-out data, with different scores"
            )
        return found


def label_distance(config: Any) -> Distance:
    """The distance of a classifier's labels, as transformers takes them: by type or number."""
    if config.problem_type == "multi_label_classification":
        return Independent()
    if config.problem_type == "regression" or config.num_labels == 1:
        return Score()
    return Choice()
