"""Calibration tensors: read from a file, and checked against the model's inputs once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autotune.compress.calibration_text import MIN_SEQUENCES, embedding_size
from autotune.compress.loading import LoadedModel
from autotune.compress.positions import (
    POSITIONS,
    first_position,
    max_text_positions,
    token_types,
)
from autotune.compress.tasks import make_task
from autotune.compress.tasks.base import MASK
from autotune.core.errors import CalibrationError
from autotune.core.types import Workload

# Parameters of a model's call that are no inputs of it.
_NO_INPUTS = frozenset(
    {
        "labels",
        "start_positions",
        "end_positions",
        "next_sentence_label",
        "inputs_embeds",
        "past_key_values",
        "head_mask",
        "self",
        "kwargs",
    }
)
_TYPES = "token_type_ids"
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def tensor_rows(loaded: LoadedModel, path: Path) -> list[dict[str, Tensor]]:
    """The inputs of every sample in a .safetensors file, by name.

    Integers are read as int64 and floats as fp32; a missing attention mask is all ones.

    Raises:
        CalibrationError: unreadable, or tensors that the model does not take: names, types, shapes,
            token ids, masks and values are checked.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CalibrationError(f"calibration file {path} cannot be read: {error}") from error
    lengths = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors.values()}
    if len(lengths) != 1 or (count := lengths.pop()) < MIN_SEQUENCES:
        raise CalibrationError(
            f"{path} must hold input tensors that share a first dimension of at least "
            f"{MIN_SEQUENCES} samples"
        )
    tensors = _checked(loaded, path, tensors=tensors)
    return [{name: tensor[i] for name, tensor in tensors.items()} for i in range(count)]


def _checked(
    loaded: LoadedModel, path: Path, *, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    shape = Workload(batch_size=2, sequence_length=2)
    examples = make_task(loaded.task, loaded.folder).example_inputs(loaded.model, shape)
    _check_names(loaded, path, tensors=tensors, examples=examples)
    found = dict(tensors)
    if "input_ids" in found and MASK in examples:
        found.setdefault(MASK, torch.ones_like(found["input_ids"]))
    # One number for each token, as the ids are.
    likened = {name: examples.get("input_ids") for name in (_TYPES, POSITIONS)} | examples
    found = {
        name: _typed(path, name, tensor=tensor, example=likened.get(name))
        for name, tensor in found.items()
    }
    if "input_ids" in found:
        _check_ids(loaded, path, ids=found["input_ids"])
        _check_by_token(loaded, path, tensors=found)
    if MASK in found:
        _check_mask(path, found[MASK], ids=found.get("input_ids"))
    return found


def _check_names(
    loaded: LoadedModel,
    path: Path,
    *,
    tensors: Mapping[str, Tensor],
    examples: Mapping[str, Tensor],
) -> None:
    """Every input is there, but for the mask, and nothing that the model does not take."""
    missing = [name for name in examples if name not in tensors and name != MASK]
    taken = set(inspect.signature(loaded.model.forward).parameters) - _NO_INPUTS
    unknown = sorted(set(tensors) - taken - set(examples))
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which is no input"
        raise CalibrationError(
            f"{path} {what}: {type(loaded.model).__name__} takes {', '.join(examples)}, with "
            f"samples as the first dimension; the file has {', '.join(sorted(tensors))}"
        )


def _typed(path: Path, name: str, *, tensor: Tensor, example: Tensor | None) -> Tensor:
    """The tensor as int64 or fp32, whichever its kind; like the example where there is one."""
    if tensor.dtype in (*_INTEGERS, torch.bool):
        tensor = tensor.long()
    elif tensor.is_floating_point():
        tensor = tensor.float()
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise CalibrationError(f"{name!r} in {path} holds {bad} NaN or infinite values")
    else:
        raise CalibrationError(
            f"{name!r} in {path} is of type {tensor.dtype}, which no model takes"
        )
    if example is None:
        return tensor
    if tensor.is_floating_point() != example.is_floating_point():
        wanted = "floating-point numbers" if example.is_floating_point() else "whole numbers"
        raise CalibrationError(f"{name!r} in {path} must hold {wanted}")
    if tensor.ndim != example.ndim or not all(tensor.shape):
        raise CalibrationError(
            f"{name!r} in {path} must have {example.ndim} dimensions, none of them 0; it has the "
            f"shape {tuple(tensor.shape)}"
        )
    if tensor.is_floating_point() and tensor.shape[1:] != example.shape[1:]:
        raise CalibrationError(
            f"samples of {name!r} in {path} have the shape {tuple(tensor.shape[1:])}; the model "
            f"takes {tuple(example.shape[1:])}"
        )
    return tensor


def _check_ids(loaded: LoadedModel, path: Path, *, ids: Tensor) -> None:
    size, limit = embedding_size(loaded), max_text_positions(loaded.model)
    least, largest = int(ids.min()), int(ids.max())
    if size is not None and not 0 <= least <= largest < size:
        wrong = least if least < 0 else largest
        raise CalibrationError(
            f"'input_ids' in {path} holds token {wrong}; the model's embedding has tokens 0 to "
            f"{size - 1}"
        )
    if limit is not None and ids.shape[1] > limit:
        raise CalibrationError(
            f"'input_ids' in {path} has sequences of {ids.shape[1]} tokens; the model has {limit} "
            "positions"
        )


def _check_by_token(loaded: LoadedModel, path: Path, *, tensors: Mapping[str, Tensor]) -> None:
    """Types and positions of tokens: one for each token, and in the tables that the model has."""
    positions = max_text_positions(loaded.model)
    if positions is not None:
        positions += first_position(loaded.model)
    for name, size in ((_TYPES, token_types(loaded.model)), (POSITIONS, positions)):
        if name not in tensors:
            continue
        values = tensors[name]
        _check_shape(path, name, tensor=values, ids=tensors["input_ids"])
        least, largest = int(values.min()), int(values.max())
        if size is not None and not 0 <= least <= largest < size:
            raise CalibrationError(
                f"{name!r} in {path} holds {least if least < 0 else largest}; the model takes 0 to "
                f"{size - 1}"
            )


def _check_shape(path: Path, name: str, *, tensor: Tensor, ids: Tensor) -> None:
    if tensor.shape != ids.shape:
        raise CalibrationError(
            f"{name!r} in {path} has the shape {tuple(tensor.shape)}, 'input_ids' has "
            f"{tuple(ids.shape)}"
        )


def _check_mask(path: Path, mask: Tensor, *, ids: Tensor | None) -> None:
    if ids is not None:
        _check_shape(path, MASK, tensor=mask, ids=ids)
    if not ((mask == 0) | (mask == 1)).all():
        raise CalibrationError(f"{MASK!r} in {path} must hold 1 for tokens and 0 for padding")
    empty = (mask.sum(1) == 0).nonzero()
    if len(empty):
        raise CalibrationError(
            f"{MASK!r} in {path} leaves no token of sample {int(empty[0])}; leave such samples out"
        )
