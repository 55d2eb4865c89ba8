"""Tasks by name: causal-lm, embedding, image-text, classification, image-classification."""

from __future__ import annotations

from pathlib import Path

from autotune.compress.tasks.base import Batch, Task
from autotune.core.errors import UsageError

__all__ = ["Batch", "Task", "make_task"]


def make_task(name: str, folder: Path) -> Task:
    """The task `name`, reading from the model's `folder` what it needs (the pooling).

    Raises:
        UsageError: an unknown name.
    """
    if name == "causal-lm":
        from autotune.compress.tasks.causal_lm import CausalLM

        return CausalLM()
    if name == "embedding":
        from autotune.compress.tasks.embedding import Embedding, folder_pooling

        return Embedding(folder_pooling(folder))
    if name in ("classification", "image-classification"):
        from autotune.compress.tasks.classification import Classification

        return Classification()
    if name == "image-text":
        from autotune.compress.tasks.image_text import ImageText

        return ImageText()
    raise UsageError(
        f"unknown task {name!r}; known are causal-lm, embedding, image-text, "
        "classification, image-classification"
    )
