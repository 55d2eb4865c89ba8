"""Whether an exported graph computes what the checkpoint does, at shapes it was not traced at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.compress.decode import decode_inputs, decode_step
from autotune.compress.loading import LoadedModel
from autotune.compress.onnx_export import typed_inputs
from autotune.compress.tasks import make_task
from autotune.compress.tasks.base import MASK
from autotune.core.errors import ParityError
from autotune.core.progress import Advance, no_progress
from autotune.core.types import Workload
from autotune.export.manifest import ParityCase, ParityRecord

# Largest difference over the largest value: rounding of a whole network in the dtype.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
SHAPES = ((1, 1), (1, 7), (3, 1), (3, 7), (1, 513), (3, 513))
Arrays = Mapping[str, Any]
Network = Callable[[Arrays], Arrays]


@torch.no_grad()
def check_parity(
    loaded: LoadedModel,
    phase: str,
    *,
    network: Network,
    dtype: str,
    what: str,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    progress: Advance = no_progress,
    reference: Network | None = None,
) -> ParityRecord:
    """Every shape's error; `network` maps named inputs to named outputs, "prefill" or "decode".

    Compared with the checkpoint in torch, or with what `reference` makes of the same inputs.

    Raises:
        ParityError: one of them is beyond the dtype's tolerance, or not finite.
    """
    cases = []
    for index, (batch, length, inputs, expected) in enumerate(
        references(loaded, phase, shapes=shapes)
    ):
        progress(index, len(shapes))
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        found = network(feeds)
        wanted = reference(feeds) if reference else expected
        error = max(
            apart(found[name], wanted[name].astype(np.float32), where=value != 0)
            for name, value in expected.items()
        )
        cases.append(ParityCase(batch_size=batch, length=length, error=error))
        if not error <= TOLERANCES[dtype]:
            raise ParityError(
                f"{what} differs from the checkpoint by {error:.1e} of its largest value at batch "
                f"{batch}, length {length}; {TOLERANCES[dtype]:.0e} is allowed in {dtype}"
            )
    return ParityRecord(tolerance=TOLERANCES[dtype], cases=tuple(cases))


def references(
    loaded: LoadedModel, phase: str, *, shapes: tuple[tuple[int, int], ...]
) -> Iterator[tuple[int, int, dict[str, Tensor], dict[str, Any]]]:
    """Batch, length, inputs and what the checkpoint makes of them; half of them are padded."""
    limit = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
    task: Any = make_task(loaded.task, loaded.folder)
    for batch, wanted in shapes:
        length = min(wanted, (limit or wanted) - (phase == "decode"))
        if phase == "decode":
            inputs = decode_inputs(loaded.model, batch, past_length=length)
            logits, *_ = decode_step(loaded.model, inputs)
            yield batch, length, inputs, {"logits": logits.float().numpy()}
            continue
        workload = Workload(batch_size=batch, sequence_length=length)
        inputs = typed_inputs(loaded.model, task.example_inputs(loaded.model, workload))
        if MASK in inputs and length > 1 and batch > 1:
            inputs[MASK][0, length // 2 :] = 0
        output = task.output(loaded.model, inputs)
        if MASK in inputs and output.ndim == 3 and output.shape[1] == length:
            # Masked positions are nobody's output.
            output = output * inputs[MASK][..., None]
        yield batch, length, inputs, {task.output_name: output.float().numpy()}


def apart(found: Any, expected: Any, *, where: Any) -> float:
    """Largest difference over the largest value, at the places `where`."""
    difference = np.abs(found.astype(np.float32) - expected)[where]
    return float(difference.max(initial=0.0) / max(np.abs(expected[where]).max(initial=0), 1e-12))


def onnx_network(path: Path, threads: int = 1) -> Network:
    """Open an ONNX file as a function that computes its named outputs on the CPU.

    Raises:
        ModelError: it is no model that onnxruntime opens.
    """
    from autotune.profiler.backends.onnxruntime_cpu import open_model

    session = open_model(path, threads)
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))
