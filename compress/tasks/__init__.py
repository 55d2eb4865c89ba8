"""Tasks by name. A task is a module with its class, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.compress.tasks.base import Batch, Task
from autotune.compress.tasks.causal_lm import CausalLM
from autotune.compress.tasks.classification import Classification, ImageClassification
from autotune.compress.tasks.embedding import Embedding
from autotune.compress.tasks.image_text import ImageText
from autotune.core.errors import UsageError

__all__ = ["TASKS", "Batch", "Task", "detect_task", "make_task", "task_class"]

# In this order they are asked whether a type of model is theirs; the last one takes any.
_KINDS: tuple[type[Task], ...] = (
    ImageText,
    CausalLM,
    Classification,
    ImageClassification,
    Embedding,
)
TASKS: Mapping[str, type[Task]] = {kind.name: kind for kind in _KINDS}


def task_class(name: str) -> type[Task]:
    """The class of the task `name`, with what holds for all of its models.

    Raises:
        UsageError: an unknown name (the known ones are listed).
    """
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    return TASKS[name]


def make_task(name: str, folder: Path) -> Task:
    """The task `name`, reading from the model's `folder` what it needs (the pooling).

    Raises:
        UsageError: an unknown name (the known ones are listed).
    """
    return task_class(name).of_folder(folder)


def detect_task(config: Any) -> str:
    """What the model of a configuration is for: by its architectures, else by its type."""
    for architecture in config.architectures or []:
        for name, kind in TASKS.items():
            if architecture.endswith(kind.architectures):
                return name
    return next(name for name, kind in TASKS.items() if kind.has_type(config))
