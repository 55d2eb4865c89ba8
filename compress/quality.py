"""How a model does on held-out data: its mean loss, and whether that can tell models apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autotune.compress.tasks.base import NOTHING_JUDGED, Batch, Task
from autotune.core.errors import CalibrationError, ModelError
from autotune.core.progress import Advance, no_progress


class _Spread:
    """How far the items of all batches lie apart, by their least and largest values."""

    def __init__(self) -> None:
        self.items = 0
        self._ends: Tensor | None = None

    def add(self, items: Tensor) -> None:
        """Count further ones, (items, parts, values)."""
        self.items += len(items)
        if len(items):
            known = () if self._ends is None else self._ends
            found = torch.stack([*torch.aminmax(items, dim=0), *known])
            self._ends = torch.stack([*torch.aminmax(found, dim=0)])

    @property
    def differs(self) -> bool:
        """Whether no part is the same in all items, apart from rounding."""
        if self._ends is None:
            return False
        low, high = self._ends
        return bool(((high - low).amax(-1) > 1e-5 * self._ends.abs().amax((0, -1))).all())


@torch.no_grad()
def dense_loss(
    task: Task, model: nn.Module, *, batches: Sequence[Batch], progress: Advance = no_progress
) -> float:
    """The mean loss of the dense model, which is its own reference.

    Raises:
        CalibrationError: the figure could not fall, as nothing is judged or the output is the same
            for any input; or a single item is judged, which does not show that.
        ModelError: the output or the loss is not finite.
    """
    total, count, spread = 0.0, 0, _Spread()
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
        spread.add(task.judged(output, reference, batch=batch))
        total, count = total + float(value), count + items
    progress(len(batches), len(batches))
    if not count:
        raise CalibrationError(NOTHING_JUDGED)
    if spread.items < 2:
        raise CalibrationError(
            "a single item of the held-out data is judged, which cannot show whether the model's "
            "output depends on its input; give more held-out data"
        )
    if not spread.differs:
        raise CalibrationError(
            "the model's output is the same for every held-out input, so no quality figure could "
            "show what compression does to it; give data that differ, or another model"
        )
    return total / count


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a compressed model does to held-out data; `Quality` shows both."""

    loss: float
    neighbour_overlap: float | None


@torch.no_grad()
def judged(
    task: Task,
    model: nn.Module,
    *,
    batches: Sequence[Batch],
    references: Sequence[Tensor | None],
) -> Judgement:
    """The compressed model against the dense one, its mean loss in units of the task's scale.

    Raises:
        ModelError: the loss is not finite.
    """
    total, count = 0.0, 0
    found: list[Tensor] = []
    for batch, reference in zip(batches, references, strict=True):
        output = task.output(model, batch).float()
        value, items = task.loss(output, output if reference is None else reference, batch=batch)
        total, count = total + float(value), count + items
        if reference is not None:
            found.append(task.reduce(output, batch))
    loss = total / max(count, 1) / task.scale(references, batches)
    if not math.isfinite(loss):
        raise ModelError(
            "the compressed model's output is not finite on the held-out data; give a looser "
            "budget, or a storage of more bits"
        )
    dense = [reference for reference in references if reference is not None]
    return Judgement(
        loss=loss, neighbour_overlap=task.neighbour_overlap(found, dense) if dense else None
    )
