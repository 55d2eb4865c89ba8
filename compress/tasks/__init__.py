"""Tasks by name. A task is a module with its class, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.models.auto import modeling_auto as auto

from autotune.compress.sentence import read_sentence_model
from autotune.compress.tasks.base import Batch, Task
from autotune.compress.tasks.causal_lm import CausalLM
from autotune.compress.tasks.classification import Classification, ImageClassification
from autotune.compress.tasks.embedding import Embedding
from autotune.compress.tasks.image_text import ImageText
from autotune.compress.tasks.token_level import MaskedLM, QuestionAnswering, TokenClassification
from autotune.core.errors import ModelError, UsageError

__all__ = ["TASKS", "Batch", "Task", "detect_task", "make_task", "task_class"]

# In this order they are asked whether a type of model is theirs; the last one takes any.
_KINDS: tuple[type[Task], ...] = (
    ImageText,
    CausalLM,
    Classification,
    ImageClassification,
    TokenClassification,
    MaskedLM,
    QuestionAnswering,
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
        ModelError: the folder asks for what the task does not compute.
    """
    return task_class(name).of_folder(folder)


def detect_task(config: Any, folder: Path | None = None) -> str:
    """What a model is for: by its folder's pooling, else by its architectures, else by its type.

    Raises:
        ModelError: the architecture has a head that no task judges, or a damaged folder.
    """
    if folder is not None and read_sentence_model(folder) is not None:
        return Embedding.name
    architectures = [str(each) for each in config.architectures or []]
    for architecture in architectures:
        for name, kind in TASKS.items():
            if architecture.endswith(kind.architectures):
                return name
    for architecture in architectures:
        _check_body(architecture, config.model_type)
    return next(name for name, kind in TASKS.items() if kind.has_type(config))


def _check_body(architecture: str, model_type: str) -> None:
    """Refuse an architecture that is no body: `AutoModel` would drop its head."""
    bodies = auto.MODEL_MAPPING_NAMES.get(model_type)
    names = (bodies,) if isinstance(bodies, str) else bodies or ()
    if architecture in names or (not names and "For" not in architecture):
        return
    if architecture.endswith("EncoderModel"):  # the encoder alone of a model with a decoder
        return
    endings = (ending for kind in TASKS.values() for ending in kind.architectures)
    encoder = auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(model_type, "")
    part, loader = "body", "AutoModel"
    if encoder.endswith("EncoderModel"):  # `AutoModel` would keep the decoder
        part, loader = "encoder", "AutoModelForTextEncoding"
    raise ModelError(
        f"config.json names the architecture {architecture}, whose outputs no task judges; judged "
        f"are …{', …'.join(endings)}, models without a head, and pairs of a text and an image "
        f"tower. To tune the {part} alone as an embedding model, save it with "
        f"{loader}.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER)"
    )
