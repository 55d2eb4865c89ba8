"""What classifiers of sequences, images and tokens share: the distance of their labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from transformers import AutoConfig

from autotune.compress.tasks.base import Task
from autotune.compress.tasks.distances import Choice, Distance, label_distance


class LabelledTask(Task):
    """A task whose answers are labels, judged by what these mean (`distances`)."""

    output_name = "logits"
    higher_is_better = True

    def __init__(self, distance: Distance | None = None) -> None:
        self.distance = distance or Choice()
        self.metric = self.distance.metric

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The task with the distance for config.json's `problem_type` and number of labels."""
        return cls(label_distance(AutoConfig.from_pretrained(folder, trust_remote_code=False)))

    @property
    def setup(self) -> Mapping[str, Any]:
        """The distance, which changes what is judged and therefore what is cached."""
        return {"distance": self.distance.name}

    def figure(self, mean_loss: float) -> float:
        """The figure of the distance, 1 where both models agree."""
        return self.distance.figure(mean_loss)
