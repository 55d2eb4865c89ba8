"""Export of a checkpoint, dense or compressed, with its own dtype, to ONNX.

The model is traced with a dense layer in the place of every pair and every layer of integers,
which are put into the graph afterwards: the tracer's optimiser never sees two products that it
could multiply together, and integers are written as runtimes read them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autotune.compress.checkpoint import compressed_layers
from autotune.compress.loading import LoadedModel
from autotune.compress.lowrank import replaced
from autotune.compress.onnx_decode import export_decode
from autotune.compress.onnx_export import check_graph, export_dense
from autotune.compress.onnx_rewrite import rewrite_low_rank
from autotune.compress.onnx_trace import OPSET
from autotune.compress.tasks import make_task
from autotune.core.progress import Advance, no_progress
from autotune.core.types import Workload

GRAPHS = {"prefill": "model.onnx", "decode": "model_decode.onnx"}
_TRACED = Workload(batch_size=2, sequence_length=8)


def export_checkpoint(
    loaded: LoadedModel,
    phase: str,
    *,
    folder: Path,
    metadata: Mapping[str, Any],
    progress: Advance = no_progress,
    opset: int = OPSET,
) -> Path:
    """Write the graph of one pass, "prefill" (whole sequences) or "decode", into `folder`.

    Batch, sequence and past length are free.

    Raises:
        ModelError: the model does not trace, or a pair is not two products in the graph.
    """
    layers = compressed_layers(loaded.model)
    path = folder / GRAPHS[phase]
    with tempfile.TemporaryDirectory(dir=folder) as scratch, _dense_places(loaded.model) as names:
        dense = Path(scratch) / GRAPHS[phase]
        if phase == "decode":
            export_decode(loaded.model, names, path=dense, progress=progress, opset=opset)
        else:
            task = make_task(loaded.task, loaded.folder)
            export_dense(
                loaded.model,
                task,
                sites=names,
                workload=_TRACED,
                path=dense,
                progress=progress,
                opset=opset,
            )
        rewrite_low_rank(dense, layers, path=path, metadata=metadata)
    check_graph(str(path), full=True)
    return path


@contextmanager
def _dense_places(model: nn.Module) -> Iterator[list[str]]:
    """The model with a dense layer where each compressed one stands; their names."""
    places: dict[str, nn.Module] = {}
    for name, layer in compressed_layers(model).items():
        dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        dense = nn.Linear(
            layer.in_features, layer.out_features, layer.bias is not None, dtype=dtype
        )
        # Random: equal weights of two layers would become one in the graph.
        dense.requires_grad_(False)
        if layer.bias is not None:
            dense.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        places[name] = dense
    with replaced(model, places), torch.no_grad():
        yield list(places)
