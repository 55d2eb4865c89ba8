"""Export of the decode step of a decoder to ONNX."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from torch import Tensor, nn

from autotune.compress.decode import PAST, decode_inputs, decode_step
from autotune.compress.onnx_export import save_onnx
from autotune.compress.onnx_trace import OPSET, trace
from autotune.core.progress import Advance, no_progress


class _Decode(nn.Module):
    """`decode_step` as a function of tensors in the order of `names`."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.wrapped = model
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return decode_step(self.wrapped, dict(zip(self.names, inputs, strict=True)))


def export_decode(
    model: nn.Module,
    sites: Collection[str],
    *,
    path: Path,
    progress: Advance = no_progress,
    opset: int = OPSET,
) -> None:
    """Write the dense decode graph to `path`, with dynamic batch and past length.

    Sites are named as in the dense graph of whole sequences, so the same plan rewrites both.

    Raises:
        ModelError: the model does not trace, or a site has no single matrix product in the graph.
    """
    inputs = decode_inputs(model, 2, past_length=5)
    past = [name for name in inputs if name.startswith(PAST)]
    dynamic = [{0: "batch"}, {0: "batch", 1: "total_length"}]
    dynamic += [{0: "batch", 2: "past_length"} for _ in past]
    outputs = ["logits", *(name.replace(PAST, "present") for name in past)]
    graph = trace(
        _Decode(model, list(inputs)),
        inputs,
        dynamic=dynamic,
        outputs=outputs,
        sites=sites,
        progress=progress,
        opset=opset,
    )
    save_onnx(graph, path)
