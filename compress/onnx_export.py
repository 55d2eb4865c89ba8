"""Export to ONNX: the traced dense graph, and files of graphs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx
from torch import Tensor, nn

from autotune.compress.onnx_trace import ADVICE, OPSET, trace
from autotune.compress.tasks.base import Task
from autotune.core.errors import ModelError
from autotune.core.progress import Advance, no_progress
from autotune.core.text import cause_line
from autotune.core.types import Workload

EXTERNAL_ABOVE_BYTES = 1_800_000_000


class _Exported(nn.Module):
    """The model as a function of its named inputs to one tensor."""

    def __init__(self, model: nn.Module, task: Task, *, names: Sequence[str]) -> None:
        super().__init__()
        self.wrapped = model
        self.task = task
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.task.output(self.wrapped, dict(zip(self.names, inputs, strict=True)))


def export_dense(
    model: nn.Module,
    task: Task,
    *,
    sites: Collection[str],
    workload: Workload,
    path: Path,
    progress: Advance = no_progress,
    opset: int = OPSET,
) -> None:
    """Trace `model` with dynamic batch and sequence and write the dense graph to `path`.

    Raises:
        ModelError: the model does not trace, or a site has no single matrix product in the graph.
    """
    traced = Workload(
        batch_size=max(2, min(workload.batch_size, 4)),
        sequence_length=max(4, min(workload.sequence_length, 16)),
    )
    inputs = typed_inputs(model, task.example_inputs(model, traced))
    dynamic = [
        {0: "batch", 1: "sequence"} if value.ndim == 2 else {0: "batch"}
        for value in inputs.values()
    ]
    module = _Exported(model, task, names=list(inputs))
    graph = trace(
        module,
        inputs,
        dynamic=dynamic,
        outputs=[task.output_name],
        sites=sites,
        progress=progress,
        opset=opset,
    )
    save_onnx(graph, path)


def typed_inputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs with their floats (pixels) in the model's dtype."""
    dtype = next(model.parameters()).dtype
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers; protobuf cannot even count what is beyond its limit."""
    return sum(
        math.prod(w.dims) * onnx.helper.tensor_dtype_to_np_dtype(w.data_type).itemsize
        for w in model.graph.initializer
    )


def check_graph(model: onnx.ModelProto | str, *, full: bool = False) -> None:
    """Check a graph, or the file of one, by ONNX's own rules; `full` with the shapes of all values.

    Raises:
        ModelError: it breaks one.
    """
    try:
        onnx.checker.check_model(model, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"the exported graph is not valid ONNX: {cause_line(error)}; {ADVICE}"
        ) from error


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write `path`; weights go to `<path>.data` beside it when they exceed protobuf's limit.

    Raises:
        ModelError: it breaks a rule of ONNX.
    """
    if weight_bytes(model) > EXTERNAL_ABOVE_BYTES:
        onnx.save(
            model,
            path,
            save_as_external_data=True,
            location=f"{path.name}.data",
            all_tensors_to_one_file=True,
        )
        check_graph(str(path))
    else:
        check_graph(model)
        onnx.save(model, path)
