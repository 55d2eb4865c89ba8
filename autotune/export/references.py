"""What a graph must compute: transformers' plain call, with padding on either side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.compress.decode import cached
from autotune.compress.loading import LoadedModel
from autotune.compress.onnx_export import typed_inputs
from autotune.compress.positions import first_position, stated_positions
from autotune.compress.tasks import Task, make_task
from autotune.compress.tasks.base import MASK
from autotune.core.types import Workload

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Inputs of one shape, and what the model makes of each row.

    `rows` holds (row of the batch, where in it, right values) for the output `name`: positions that
    are padding are nobody's output. A row that is padded on the left may have two right values: as
    a plain call counts its positions, and as `generate` does, which is the row without padding.
    """

    batch_size: int
    length: int
    inputs: Mapping[str, Tensor]
    name: str
    rows: tuple[tuple[int, Any, tuple[Array, ...]], ...]

    def error(self, outputs: Mapping[str, Array]) -> float:
        """The largest difference over the largest value, of all rows."""
        found = outputs[self.name].astype(np.float32)
        largest = max(float(np.abs(right[0]).max(initial=0)) for _, _, right in self.rows)
        worst = 0.0
        for row, where, alternatives in self.rows:
            errors = [np.abs(found[row][where] - right).max(initial=0) for right in alternatives]
            finite = [float(error) for error in errors if np.isfinite(error)]
            worst = max(worst, min(finite, default=float("inf")))
        return worst / max(largest, 1e-12)

    def against(self, outputs: Mapping[str, Array]) -> Reference:
        """The same inputs, with the values of another network as the right ones."""
        values = outputs[self.name].astype(np.float32)
        rows = tuple((row, where, (values[row][where],)) for row, where, _ in self.rows)
        return Reference(
            batch_size=self.batch_size,
            length=self.length,
            inputs=self.inputs,
            name=self.name,
            rows=rows,
        )


def make_reference(loaded: LoadedModel, phase: str, *, batch_size: int, length: int) -> Reference:
    """The reference for `batch_size` sequences of `length` tokens, or of as many as fit.

    The first of several sequences is padded on the right and the second on the left; of decode
    steps, the first on the left.
    """
    limit = stated_positions(loaded.config.get_text_config())
    if limit is not None:
        length = min(length, limit - first_position(loaded.model) - (phase == "decode"))
    task = make_task(loaded.task, loaded.folder)
    make = _decode if phase == "decode" else _prefill
    return make(loaded, task, batch=batch_size, length=length)


def _prefill(loaded: LoadedModel, task: Task, *, batch: int, length: int) -> Reference:
    model, workload = loaded.model, Workload(batch_size=batch, sequence_length=length)
    inputs = typed_inputs(model, task.example_inputs(model, workload))
    mask = inputs.get(MASK)
    if mask is not None:
        length = mask.shape[1]
        if batch > 1 and length > 1:
            mask[0, length - length // 2 :] = 0
            mask[1, : length // 2] = 0
        _pad_ids(inputs, loaded)
    output = task.plain(model, inputs)
    by_token = mask is not None and output.ndim == 3 and output.shape[1] == length
    by_token = by_token and "pixel_values" not in inputs  # two embeddings of a pair
    rows = []
    for row in range(batch):
        where = mask[row].bool().numpy() if by_token and mask is not None else ...
        right = [_values(output[row])[where]]
        if mask is not None and by_token and task.has_decode and not mask[row, 0]:
            right.append(_values(_alone(task, loaded, inputs=inputs, row=row)))
        rows.append((row, where, tuple(right)))
    return Reference(
        batch_size=batch, length=length, inputs=inputs, name=task.output_name, rows=tuple(rows)
    )


def _decode(loaded: LoadedModel, task: Task, *, batch: int, length: int) -> Reference:
    """One more token after a real pass over `length` tokens, as a pass over all of them ends."""
    model, workload = loaded.model, Workload(batch_size=batch, sequence_length=length + 1)
    inputs = task.example_inputs(model, workload)
    mask = inputs[MASK]
    if batch > 1 and length > 1:
        mask[0, : length // 2] = 0
    _pad_ids(inputs, loaded)
    output = task.plain(model, inputs)
    rows = []
    for row in range(batch):
        right = [_values(output[row, -1:])]
        if not mask[row, 0]:
            right.append(_values(_alone(task, loaded, inputs=inputs, row=row)[-1:]))
        rows.append((row, ..., tuple(right)))
    ids = inputs["input_ids"]
    feeds = {"input_ids": ids[:, -1:], MASK: mask, **cached(model, ids[:, :-1], mask=mask[:, :-1])}
    return Reference(
        batch_size=batch, length=length, inputs=feeds, name=task.output_name, rows=tuple(rows)
    )


def _pad_ids(inputs: dict[str, Tensor], loaded: LoadedModel) -> None:
    """The padding token where nothing else is, and nowhere else: some models look for it."""
    text: Any = loaded.config.get_text_config()
    padding = getattr(text, "pad_token_id", None)
    if padding is None or not 0 <= padding < text.vocab_size or "input_ids" not in inputs:
        return
    ids, mask = inputs["input_ids"], inputs[MASK].bool()
    other = 1 if padding == 0 else 0
    inputs["input_ids"] = ids.where(ids != padding, other).where(mask, padding)


def _alone(task: Task, loaded: LoadedModel, *, inputs: Mapping[str, Tensor], row: int) -> Tensor:
    """What the model makes of one row without its padding."""
    real = inputs[MASK][row].bool()
    ids = inputs["input_ids"][row][real][None]
    return task.plain(loaded.model, {"input_ids": ids, MASK: torch.ones_like(ids)})[0]


def _values(tensor: Tensor) -> Array:
    values: Array = tensor.float().numpy()
    return values
