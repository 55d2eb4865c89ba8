"""Export to ONNX: one traced dense graph, in which chosen layers become pairs of MatMuls.

The factorized graph is made by rewriting the dense one, so both share every node that is not a
chosen layer: what differs in latency is what was factorized, and a new plan costs no new trace.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autotune.compress.lowrank import LowRankLinear, SharedLowRankLinear
from autotune.compress.tasks.base import Task
from autotune.errors import ModelError
from autotune.types import Site, Workload

OPSET = 23  # the first with Attention, RotaryEmbedding and RMSNormalization as single nodes
_EXTERNAL_ABOVE_BYTES = 1_800_000_000
_PREFIX = "wrapped"


class _Exported(nn.Module):
    """The model as a function of its named inputs to one tensor."""

    def __init__(self, model: nn.Module, task: Task, names: Sequence[str]) -> None:
        super().__init__()
        self.wrapped = model
        self.task = task
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.task.output(self.wrapped, dict(zip(self.names, inputs, strict=True)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports to stdout, warnings and logs; ours says what matters itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_dense(
    model: nn.Module, task: Task, sites: Sequence[Site], workload: Workload, path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:  # fmt: skip
    """Trace `model` with dynamic batch and sequence and write the dense graph to `path`.

    Every site's node is named after it, its weight `<site>.weight`.

    Raises:
        ModelError: the model does not trace, or a site has no single matrix product in the graph.
    """
    # 0 and 1 would be specialised by the tracer, so trace with at least 2 and 4.
    traced = Workload(
        batch_size=max(2, min(workload.batch_size, 4)),
        sequence_length=max(4, min(workload.sequence_length, 16)),
    )
    inputs = task.example_inputs(model, traced)
    dynamic = torch.export.Dim.AUTO
    shapes = tuple(
        {0: dynamic, 1: dynamic} if value.ndim == 2 else {0: dynamic} for value in inputs.values()
    )
    try:
        with _quiet():
            progress(0, 3)
            traced_model = torch.export.export(
                _Exported(model, task, list(inputs)), tuple(inputs.values()),
                dynamic_shapes=(shapes,), strict=False,
            )  # fmt: skip
            progress(1, 3)
            program = torch.onnx.export(
                traced_model, dynamo=True, input_names=list(inputs),
                output_names=[task.output_name], opset_version=OPSET, verbose=False,
            )  # fmt: skip
            progress(2, 3)
    except torch.onnx.errors.OnnxExporterError as error:
        why = str(error.__cause__ or error).splitlines()[0]
        raise ModelError(f"the model cannot be exported to ONNX: {why}") from error
    assert program is not None
    graph = program.model_proto
    _name_sites(graph, sites)
    _name_dimensions(graph, ("batch", "sequence"))
    _drop_trace_metadata(graph)
    save_onnx(graph, path)


def _name_sites(model: onnx.ModelProto, sites: Sequence[Site]) -> None:
    weights = {w.name: w for w in model.graph.initializer}
    found: dict[str, onnx.NodeProto] = {}
    names = {site.name for site in sites}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
            continue
        site = _scope_site(node, names)
        if site is not None:
            if site in found:
                raise ModelError(f"{site} is exported as more than one matrix product")
            found[site] = node
    missing = sorted(names - set(found))
    if missing:
        raise ModelError(
            f"{missing[0]} is not a matrix product in the exported graph; leave it out with "
            f"--ignore '{missing[0]}'"
        )
    uses = [name for node in model.graph.node for name in node.input]
    for site, node in found.items():
        if uses.count(node.input[1]) != 1:
            raise ModelError(f"{site} shares its weight in the exported graph")
        weights[node.input[1]].name = f"{site}.weight"
        node.input[1] = f"{site}.weight"
        node.name = site


def _name_dimensions(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Name the tracer's symbols by where they stand in the inputs: (batch, sequence, …)."""
    readable = {
        dim.dim_param: name
        for value in model.graph.input
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False)
        if dim.dim_param
    }
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_param = readable.get(dim.dim_param, dim.dim_param)


def _scope_site(node: onnx.NodeProto, names: set[str]) -> str | None:
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            for scope in reversed(ast.literal_eval(entry.value)):
                name = scope.removeprefix(f"{_PREFIX}.")
                if name in names:
                    return str(name)
    return None


def _drop_trace_metadata(model: onnx.ModelProto) -> None:
    """Stack traces of the exporting machine are of no use to a reader of the model."""
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]


def rewrite_low_rank(
    dense: Path, layers: Mapping[str, LowRankLinear], path: Path, metadata: Mapping[str, Any]
) -> None:
    """Write to `path` the dense graph with `layers` factorized, and check it.

    Raises:
        ModelError: a layer is not in the graph, or the result lacks one of the two products.
    """
    model = onnx.load(dense)
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    owners = _owners(layers)
    latents: dict[tuple[str, str], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        layer = layers.get(node.name)
        if layer is None:
            nodes.append(node)
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        up = layer.weight.detach()
        old = weights[f"{node.name}.weight"]
        up_array = (up if transposed else up.T).contiguous().numpy()
        old.CopyFrom(numpy_helper.from_array(up_array, f"{node.name}.weight"))
        # Layers that share a down factor share its product, when their input has one name.
        owner, source = owners[node.name], node.input[0]
        if (owner, source) not in latents:
            latents[owner, source] = f"{node.name}.latent"
            nodes.append(
                onnx.helper.make_node(
                    "MatMul", [source, f"{owner}.weight_down"], [f"{node.name}.latent"],
                    name=f"{node.name}.down",
                )
            )  # fmt: skip
        node.input[0] = latents[owner, source]
        nodes.append(node)
    for owner in dict.fromkeys(owners.values()):
        down = layers[owner].weight_down.detach().T.contiguous().numpy()
        graph.initializer.append(numpy_helper.from_array(down, f"{owner}.weight_down"))
    nodes = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    for key, value in metadata.items():
        model.metadata_props.add(
            key=key, value=value if isinstance(value, str) else json.dumps(value)
        )
    check_low_rank(model, layers)
    save_onnx(model, path)


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


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write `path`; weights go to `<path>.data` beside it when they exceed protobuf's limit."""
    if model.ByteSize() > _EXTERNAL_ABOVE_BYTES:
        onnx.save(
            model, path, save_as_external_data=True, location=f"{path.name}.data",
            all_tensors_to_one_file=True,
        )  # fmt: skip
        onnx.checker.check_model(str(path))
    else:
        onnx.checker.check_model(model)
        onnx.save(model, path)
