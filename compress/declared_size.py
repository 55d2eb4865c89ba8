"""Whether a model's configuration fits its weights, before memory is taken for what it declares."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModel, PretrainedConfig

from autotune.compress.locate import weight_files
from autotune.core.errors import ModelError

# Of what the files hold: tied weights and heads that a checkpoint leaves out are less than this.
_FACTOR, _MORE = 2, 10_000_000


def check_size(folder: Path, config: PretrainedConfig, *, kind: type[AutoModel]) -> None:
    """Refuse a configuration that declares far more parameters than the weights have.

    transformers would allocate all of them before it finds that they do not match.

    Raises:
        ModelError: with both numbers.
    """
    declared, stored = _declared(config, kind), _stored(folder)
    if declared is not None and declared > _FACTOR * stored + _MORE:
        raise ModelError(
            f"{folder}/config.json declares {declared:,} parameters, and the weights hold "
            f"{stored:,}; repair its sizes, or save the model again with save_pretrained"
        )


def _declared(config: PretrainedConfig, kind: type[AutoModel]) -> int | None:
    """Parameters of the model that a configuration describes, without memory for them.

    None where it cannot be built so; loading it gives the reason.
    """
    with suppress(Exception), torch.device("meta"):
        model = kind.from_config(config)
        return int(sum(parameter.numel() for parameter in model.parameters()))
    return None


def _stored(folder: Path) -> int:
    """Values in the weight files, by their headers."""
    count = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            names = tensors.keys()
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    return count
