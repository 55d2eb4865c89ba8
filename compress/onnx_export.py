"""Export to ONNX: one traced dense graph, in which chosen layers become pairs of MatMuls.

The factorized graph is made by rewriting the dense one, so both share every node that is not a
chosen layer: what differs in latency is what was factorized, and a new plan costs no new trace.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from torch import Tensor, nn

from autotune.compress.lowrank import LowRankLinear, SharedLowRankLinear, dense_weight
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


def rewrite_low_rank(
    dense: Path, changed: Mapping[str, nn.Module], *, path: Path, metadata: Mapping[str, Any]
) -> None:
    """Write to `path` the dense graph with the `changed` layers, and check it.

    A low-rank layer becomes two products; a linear one puts its weight in the place of the old.

    Raises:
        ModelError: a layer is not in the graph, or the result lacks one of the two products.
    """
    model = onnx.load(dense)
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    layers = only_low_rank(changed)
    owners = _owners(layers)
    latents: dict[tuple[str, str], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        layer = changed.get(node.name)
        if layer is None:
            nodes.append(node)
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        if isinstance(layer, LowRankLinear):
            factorized, weight = True, layer.weight.detach()
        else:
            factorized, weight = False, dense_weight(layer)
        array = (weight if transposed else weight.T).contiguous().numpy()
        name = f"{node.name}.weight"
        weights[name].CopyFrom(numpy_helper.from_array(array, name))
        if not factorized:
            nodes.append(node)
            continue
        # Layers that share a down factor share its product, when their input has one name.
        owner, source = owners[node.name], node.input[0]
        if (owner, source) not in latents:
            latents[owner, source] = f"{node.name}.latent"
            nodes.append(
                onnx.helper.make_node(
                    "MatMul",
                    [source, f"{owner}.weight_down"],
                    [f"{node.name}.latent"],
                    name=f"{node.name}.down",
                )
            )
        node.input[0] = latents[owner, source]
        nodes.append(node)
    for owner in dict.fromkeys(owners.values()):
        down = layers[owner].weight_down.detach().T.contiguous().numpy()
        graph.initializer.append(numpy_helper.from_array(down, f"{owner}.weight_down"))
    nodes = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    for key, value in metadata.items():
        # Sorted: plans that are equal, in whatever order, make the same file.
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        model.metadata_props.add(key=key, value=text)
    check_low_rank(model, layers)
    save_onnx(model, path)


def only_low_rank(layers: Mapping[str, nn.Module]) -> dict[str, LowRankLinear]:
    """The low-rank layers among `layers`."""
    return {name: layer for name, layer in layers.items() if isinstance(layer, LowRankLinear)}


def _owners(layers: Mapping[str, LowRankLinear]) -> dict[str, str]:
    """The layer that owns each layer's down factor: itself, or its leader."""
    names = {id(layer): name for name, layer in layers.items()}
    return {
        name: names[id(layer.leader)] if isinstance(layer, SharedLowRankLinear) else name
        for name, layer in layers.items()
    }


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    fresh = onnx.NodeProto()
    fresh.CopyFrom(node)
    return fresh


def check_low_rank(model: onnx.ModelProto, layers: Mapping[str, LowRankLinear]) -> None:
    """Two matrix products of the right shapes for each factorized layer, the first maybe shared.

    Raises:
        ModelError: one is missing (an optimisation multiplied the factors together).
    """
    sizes = {w.name: sorted(w.dims) for w in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    makers = {output: node for node in model.graph.node for output in node.output}
    for name, owner in _owners(layers).items():
        layer = layers[name]
        wanted = {
            f"{name}.weight": sorted((layer.out_features, layer.rank)),
            f"{owner}.weight_down": sorted((layer.in_features, layer.rank)),
        }
        whole = all(sizes.get(key) == size for key, size in wanted.items()) and name in nodes
        first = makers.get(nodes[name].input[0]) if whole else None
        if first is None or f"{owner}.weight_down" not in first.input:
            raise ModelError(f"{name} is not two matrix products in the exported graph")


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
