"""Load a transformers model from a folder, a hub id or the embedded default, and check it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import logging

from autotune.compress.declared_size import check_size
from autotune.compress.documents import CONFIG, check_documents, read_object, reading
from autotune.compress.locate import (
    EMBEDDED_MODEL,
    checkpoint_folder,
    model_folder,
    weight_files,
)
from autotune.compress.tasks import Task, detect_task, make_task, task_class
from autotune.core.errors import ModelError

# Code in a model's folder is never run, nor asked about.
_NO_CODE: dict[str, Any] = {"trust_remote_code": False}
# How the names of a head's weights begin.
_HEADS = ("classifier.", "score.", "qa_outputs.", "cls.", "lm_head.")
_DENSE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode, with what is needed to feed and judge it."""

    name: str
    folder: Path
    task: str
    model: nn.Module
    tokenizer: Any | None
    weights_sha256: str

    @property
    def kind(self) -> type[Task]:
        """The class of the task."""
        return task_class(self.task)

    @property
    def config(self) -> PretrainedConfig:
        """The model's configuration, as transformers read it."""
        config: PretrainedConfig = self.model.config  # type: ignore[assignment]
        return config


def check_weights(folder: Path) -> str:
    """sha256 over config and weight files; every floating tensor must be finite.

    Raises:
        ModelError: unreadable file, or a tensor that is quantized or holds NaN or infinity (named).
    """
    files = weight_files(folder)
    sha = hashlib.sha256((folder / "config.json").read_bytes())
    for path in [*files, *_extra_files(folder)]:
        with path.open("rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
        try:
            with safe_open(path, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    tensor = tensors.get_tensor(key)
                    if tensor.is_floating_point() and tensor.dtype not in _DENSE:
                        kind = str(tensor.dtype).removeprefix("torch.")
                        raise ModelError(
                            f"tensor {key!r} in {path.name} is {kind}, a quantized format; tune "
                            "the dense original"
                        )
                    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                        bad = int((~torch.isfinite(tensor)).sum())
                        raise ModelError(
                            f"tensor {key!r} in {path.name} holds {bad} NaN or infinite "
                            f"value{'s' if bad > 1 else ''}; repair the checkpoint before tuning"
                        )
        except SafetensorError as error:
            raise ModelError(f"{path} is not a readable safetensors file: {error}") from error
    return sha.hexdigest()


def _extra_files(folder: Path) -> list[Path]:
    """Weights in files of their own, which a few classes of transformers load beside the others."""
    names = getattr(type(read_config(folder)), "extra_files", ())
    return [folder / name for name in names if (folder / name).is_file()]


def load_model(name: str | None, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load `name` (None = the embedded default) for tuning.

    Raises:
        ModelError: missing, unreadable or non-finite model.
    """
    quiet_transformers()
    folder = model_folder(name)
    if check_documents(folder).get("quantization_config"):
        raise ModelError(f"{folder} is quantized or already factorized; tune the dense original")
    sha = check_weights(folder)
    config = read_config(folder)
    label = EMBEDDED_MODEL if name is None else str(name)
    return _loaded(label, folder, config=config, dtype=dtype, sha=sha)


def load_checkpoint(folder: Path, dtype: torch.dtype | None = None) -> LoadedModel:
    """Load a checkpoint, dense or factorized, from its folder or from the run's that made it.

    In `dtype`, or that of its weights.

    Raises:
        ModelError: missing, unreadable or non-finite.
    """
    quiet_transformers()
    found = checkpoint_folder(folder)
    check_documents(found)
    sha = check_weights(found)
    return _loaded(str(folder), found, config=read_config(found), dtype=dtype, sha=sha)


def quiet_transformers() -> None:
    """No progress bars nor warnings of transformers: what matters of a model is checked here."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def checkpoint_dtype(folder: Path) -> str:
    """What the weights of a checkpoint, or of a run's, are in, as torch names it.

    Raises:
        ModelError: no checkpoint there.
    """
    return str(read_config(checkpoint_folder(folder)).dtype or torch.float32).removeprefix("torch.")


def _loaded(
    label: str, folder: Path, *, config: PretrainedConfig, dtype: torch.dtype | None, sha: str
) -> LoadedModel:
    task = detect_task(config, folder)
    if getattr(config, "quantization_config", None) is None:
        check_size(folder, config, kind=auto_class(task, folder))
    model = load_class(task, folder, dtype=dtype)
    make_task(task, folder).check_model(model)
    tokenizer = None
    if (folder / "tokenizer_config.json").is_file():
        with reading(f"the tokenizer of {folder} cannot be loaded"):
            tokenizer = AutoTokenizer.from_pretrained(folder, **_NO_CODE)
    return LoadedModel(
        name=label, folder=folder, task=task, model=model, tokenizer=tokenizer, weights_sha256=sha
    )


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration of a model folder, as transformers reads it.

    Raises:
        ModelError: it needs code of its own, or is no configuration.
    """
    found = read_object(folder / CONFIG)
    if found.get("auto_map") and found.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise ModelError(
            f"{folder} needs Python code of its own (auto_map in {CONFIG}), which is never run; "
            "give a model of a type that transformers has"
        )
    with reading(f"{folder / CONFIG} is not a transformers configuration"):
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, **_NO_CODE)
    config._attn_implementation = None  # also of towers, whatever the file names (a kernel, say)
    return config


def auto_class(task: str, folder: Path) -> type[AutoModel]:
    """The class of transformers that loads the folder; of T5, maybe its encoder alone.

    Raises:
        UsageError: an unknown task.
    """
    import transformers

    name, architectures = task_class(task).auto_class, read_config(folder).architectures or []
    alone = any(architecture.endswith("EncoderModel") for architecture in architectures)
    found: type[AutoModel] = getattr(
        transformers, "AutoModelForTextEncoding" if alone and name == "AutoModel" else name
    )
    return found


def load_class(task: str, folder: Path, *, dtype: torch.dtype | None) -> nn.Module:
    """`AutoModel….from_pretrained` of the task's class, in evaluation mode; None is its own dtype.

    Raises:
        UsageError: an unknown task.
        ModelError: transformers refuses the folder.
    """
    kind = auto_class(task, folder)
    with reading(f"transformers cannot load {folder}"):
        model, report = kind.from_pretrained(
            folder,
            config=read_config(folder),
            dtype=dtype or "auto",
            attn_implementation=None,  # transformers' own choice, not that of the file
            use_safetensors=True,
            output_loading_info=True,
            **_NO_CODE,
        )
    missing = sorted(report["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = _NoPooler()
    elif missing:
        raise ModelError(
            f"{folder} lacks the weights of {missing[0]!r}; loading would make them random"
        )
    heads = sorted(key for key in report["unexpected_keys"] if key.startswith(_HEADS))
    if heads and not model.config.architectures:
        raise ModelError(
            f"{folder} holds the weights of a head, {heads[0]!r}, and its config.json names no "
            "architecture, so the head would be lost; name the class that saved it there"
        )
    loaded: nn.Module = model.eval()
    loaded.requires_grad_(False)
    return loaded


class _NoPooler(nn.Module):
    """In the place of a pooler that the checkpoint never had: it would be random.

    No task of headless models runs it, and without weights none are counted or saved.
    """

    def forward(self, *_: object) -> None:
        """Give no pooled output; the arguments are not looked at."""
