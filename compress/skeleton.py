"""A model by its configuration alone: every module is there, and no weight takes memory."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from autotune.compress.loading import auto_class, read_config
from autotune.compress.tasks import detect_task
from autotune.core.errors import UsageError, foreign_code, option_name

# What tensor parallelism divides, as transformers' configurations name it, and what it may.
_DIVIDED = ("num_attention_heads", "intermediate_size")
_MAYBE_DIVIDED = ("num_key_value_heads", "vocab_size")
# How transformers' plans call layers that are divided by outputs, by inputs, or not at all.
_SUMMED = ("rowwise", "packed_rowwise")
_KNOWN = ("colwise", "packed_colwise", *_SUMMED, "replicated_with_grad_allreduce")


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A model whose weights are fake tensors, in evaluation mode, and its task.

    `summed` are patterns of layers whose outputs the devices that share them add up.
    """

    task: str
    model: nn.Module
    mode: FakeTensorMode
    summed: tuple[str, ...] = ()

    def is_summed(self, name: str) -> bool:
        """Whether the devices add up the outputs of the layer `name`."""
        return any(fnmatchcase(name, f"*{pattern}") for pattern in self.summed)

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def read_skeleton(folder: Path, *, dtype: torch.dtype, tensor_parallel: int = 1) -> Skeleton:
    """The model that `config.json` in `folder` describes, or what one of several devices has of it.

    Under tensor parallelism a device has a share of the heads, of the intermediate features and of
    the vocabulary.

    Raises:
        ModelError: the configuration is none that transformers and a task of ours know.
        UsageError: the model cannot be divided so.
    """
    config = read_config(folder)
    task = detect_task(config, folder)
    kind = auto_class(task, folder)
    summed = _divide(config, tensor_parallel) if tensor_parallel > 1 else ()
    message = f"the model that {folder}/config.json describes cannot be built without its weights"
    with foreign_code(f"{message}: <why>; tune it on the device itself"):
        # On "meta" first: models read numbers, such as dropout rates, from CPU tensors meanwhile.
        with torch.device("meta"):
            model: Any = kind.from_config(config, dtype=dtype)
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            model.to_empty(device="cpu").tie_weights()
    model.eval().requires_grad_(False)
    return Skeleton(task=task, model=model, mode=mode, summed=summed)


def _divide(config: PretrainedConfig, count: int) -> tuple[str, ...]:
    """Give one of `count` devices its share; the layers whose outputs are added up.

    Raises:
        UsageError: transformers has no plan for it that divides layers alone, or a number of them
            cannot be divided.
    """
    name = option_name("tensor_parallel")
    text: Any = config.get_text_config()
    plan = getattr(text, "base_model_tp_plan", None) or {}
    if not plan or set(plan.values()) - set(_KNOWN):
        raise UsageError(
            f"{name} {count}: transformers has no plan that divides the layers of "
            f"{config.model_type}; leave it out"
        )
    if getattr(text, "head_dim", None) is None:
        text.head_dim = text.hidden_size // text.num_attention_heads
    for each in _DIVIDED:
        whole = getattr(text, each)
        if whole % count:
            raise UsageError(
                f"{name} {count} does not divide {each} {whole}; give a number that does"
            )
        setattr(text, each, whole // count)
    for each in _MAYBE_DIVIDED:
        whole = getattr(text, each, None)
        if whole is not None and whole % count == 0:
            setattr(text, each, whole // count)
        elif each == "num_key_value_heads" and whole is not None:
            setattr(text, each, 1)  # a copy of one for each device
    return tuple(pattern for pattern, how in plan.items() if how in _SUMMED)
