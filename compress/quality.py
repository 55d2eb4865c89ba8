"""How a model does on held-out data: its mean loss, and whether that can tell models apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autotune.compress.tasks.base import NOTHING_JUDGED, Batch, Task
from autotune.core.errors import CalibrationError, ModelError
from autotune.core.progress import Advance, no_progress


@torch.no_grad()
def dense_loss(
    task: Task, model: nn.Module, *, batches: Sequence[Batch], progress: Advance = no_progress
) -> float:
    """The mean loss of the dense model, which is its own reference.

    Raises:
        CalibrationError: the figure could not fall, as nothing is judged or the output is the same
            for any input.
        ModelError: the output or the loss is not finite.
    """
    total, count, varies = 0.0, 0, False
    for done, batch in enumerate(batches):
        progress(done, len(batches))
        output = task.output(model, batch)
        reference = task.reduce(output, batch)
        value, items = task.loss(output, reference, batch=batch)
        if not (math.isfinite(float(value)) and torch.isfinite(reference).all()):
            raise ModelError(
                "the model's output is not finite on the held-out data; look for extreme weights, "
                "or NaN among the values of its config.json"
            )
        varies = varies or task.varies(output, reference, batch=batch)
        total, count = total + float(value), count + items
    progress(len(batches), len(batches))
    if not count:
        raise CalibrationError(NOTHING_JUDGED)
    if not varies:
        raise CalibrationError(
            "the model's output is the same for every held-out input, so no quality figure could "
            "show what compression does to it; give data that differ, or another model"
        )
    return total / count


@torch.no_grad()
def relative_loss(
    task: Task,
    model: nn.Module,
    *,
    batches: Sequence[Batch],
    references: Sequence[Tensor | None],
) -> float:
    """The mean loss of a compressed model against the dense one, in units of the task's scale.

    Raises:
        ModelError: it is not finite.
    """
    loss = task.mean_loss(model, batches, references=references) / task.scale(references, batches)
    if not math.isfinite(loss):
        raise ModelError(
            "the compressed model's output is not finite on the held-out data; give a looser "
            "budget, or a storage of more bits"
        )
    return loss
