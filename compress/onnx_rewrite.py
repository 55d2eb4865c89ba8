"""A plan's layers in a traced dense graph: chosen products become pairs.

The factorized graph is made by rewriting the dense one, so both share every node that is not a
chosen layer: what differs in latency is what was factorized, and a new plan costs no new trace.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from autotune.compress.lowrank import LowRankLinear, SharedLowRankLinear, dense_weight
from autotune.compress.onnx_export import save_onnx
from autotune.compress.onnx_integers import (
    INTEGER_LAYERS,
    IntegerNodes,
)
from autotune.compress.pivoted_layers import PivotedInLinear, PivotedOutLinear
from autotune.core import block_products
from autotune.core.errors import ModelError


def rewrite_low_rank(
    dense: Path, changed: Mapping[str, nn.Module], *, path: Path, metadata: Mapping[str, Any]
) -> None:
    """Write to `path` the dense graph with the `changed` layers, and check it.

    A low-rank layer becomes two products, a pivoted one with what selects its inputs or puts its
    outputs in order; a linear one puts its weight in the place of the old.

    Raises:
        ModelError: a layer is not in the graph, or the result lacks one of the two products.
    """
    model = onnx.load(dense)
    graph = model.graph
    layers = only_low_rank(changed)
    pairs, integers = _Pairs(graph.initializer, layers), IntegerNodes()
    nodes: list[NodeProto] = []
    for node in graph.node:
        layer = changed.get(node.name)
        if layer is None:
            nodes.append(node)
        elif isinstance(layer, INTEGER_LAYERS):
            nodes.extend(integers.of(node, layer))
        elif isinstance(layer, LowRankLinear):
            nodes.extend(pairs.of(node, layer))
        else:
            pairs.replace_weight(node, dense_weight(layer))
            nodes.append(node)
    graph.initializer.extend([*pairs.added.values(), *integers.added.values()])
    nodes = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_weights(graph, [n for n, each in changed.items() if isinstance(each, INTEGER_LAYERS)])
    _add_contrib_operators(model)
    _add_metadata(model, metadata)
    check_low_rank(model, layers)
    save_onnx(model, path)


def _add_contrib_operators(model: onnx.ModelProto) -> None:
    """Declare the runtime's own operators where the graph has some."""
    if any(node.domain == block_products.DOMAIN for node in model.graph.node) and not any(
        each.domain == block_products.DOMAIN for each in model.opset_import
    ):
        model.opset_import.append(
            helper.make_opsetid(block_products.DOMAIN, block_products.DOMAIN_VERSION)
        )


def copy_with_metadata(graph: Path, path: Path, *, metadata: Mapping[str, Any]) -> None:
    """Write `graph` to `path` with more metadata."""
    model = onnx.load(graph)
    _add_metadata(model, metadata)
    save_onnx(model, path)


def _add_metadata(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    for key, value in metadata.items():
        # Sorted: plans that are equal, in whatever order, make the same file.
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        model.metadata_props.add(key=key, value=text)


def _drop_weights(graph: onnx.GraphProto, layers: Collection[str]) -> None:
    """Remove the dense weights of these layers, which nothing reads any more."""
    unread = {f"{name}.weight" for name in layers}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in unread:
            del graph.initializer[index]


def only_low_rank(layers: Mapping[str, nn.Module]) -> dict[str, LowRankLinear]:
    """The low-rank layers in native precision among `layers`."""
    return {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, LowRankLinear) and not isinstance(layer, INTEGER_LAYERS)
    }


class _Pairs:
    """The nodes of pairs, and their weights: those `added`, and the dense ones replaced in place.

    Whatever a pair adds is named after its layer, with `.down` or a slash, so that a profile of the
    running network finds it (profiler/measure/nodes.py).
    """

    def __init__(self, weights: Any, layers: Mapping[str, LowRankLinear]) -> None:
        self._weights = {weight.name: weight for weight in weights}
        self._owners = _owners(layers)
        self._layers = layers
        self._latents: dict[tuple[str, str], str] = {}
        self.added: dict[str, TensorProto] = {}

    def of(self, node: NodeProto, layer: LowRankLinear) -> Iterator[NodeProto]:
        """The nodes in the place of the dense product `node`."""
        # Layers that share a down factor share its product, when their input has one name.
        owner, source = self._owners[node.name], node.input[0]
        if (owner, source) not in self._latents:
            yield from self._latent(node.name, owner, source=source)
            self._latents[owner, source] = f"{node.name}.latent"
        self.replace_weight(node, layer.weight.detach())
        node.input[0] = self._latents[owner, source]
        if isinstance(layer, PivotedOutLinear):
            yield from self._ordered(node, layer)
        else:
            yield node

    def replace_weight(self, node: NodeProto, weight: Tensor) -> None:
        """Put a weight (outputs, inputs) in the place of the node's own."""
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        name = f"{node.name}.weight"
        array = (weight if transposed else weight.T).contiguous().numpy()
        self._weights[name].CopyFrom(numpy_helper.from_array(array, name))

    def _latent(self, name: str, owner: str, *, source: str) -> Iterator[NodeProto]:
        """`<name>.latent` of the input `source`, with the factor of the layer `owner`."""
        layer, result = self._layers[owner], f"{name}.latent"
        down = self._add(f"{owner}.weight_down", layer.weight_down.detach().T)
        if not isinstance(layer, PivotedInLinear):
            yield helper.make_node("MatMul", [source, down], [result], name=f"{name}.down")
            return
        parts = layer.weight_order.split([layer.rank, layer.in_features - layer.rank])
        for part, order in zip(("chosen", "rest"), parts, strict=True):
            places = self._add(f"{owner}.{part}", order)
            yield _gather(f"{name}.down/{part}", source, places=places)
        product = f"{name}.down/product"
        yield helper.make_node(
            "MatMul", [f"{name}.down/rest", down], [product], name=f"{name}.down"
        )
        yield helper.make_node(
            "Add", [f"{name}.down/chosen", product], [result], name=f"{name}.down/sum"
        )

    def _ordered(self, node: NodeProto, layer: PivotedOutLinear) -> Iterator[NodeProto]:
        """The product of fewer outputs, which with the latent are put in order."""
        name, (result,), bias = node.name, node.output, list(node.input[2:])
        del node.input[2:]
        node.output[0] = f"{name}/rest"
        yield node
        both = f"{name}/both"
        ordered = f"{name}/ordered" if bias else result
        parts = [node.input[0], f"{name}/rest"]
        yield helper.make_node("Concat", parts, [both], name=both, axis=-1)
        places = self._add(f"{name}.places", layer.weight_places)
        yield _gather(ordered, both, places=places, name=f"{name}/ordered")
        if bias:
            yield helper.make_node("Add", [ordered, *bias], [result], name=f"{name}/bias")

    def _add(self, name: str, values: Tensor) -> str:
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(values.contiguous().numpy(), name)
        return name


def _gather(result: str, source: str, *, places: str, name: str | None = None) -> NodeProto:
    """`source` at `places` of its last axis."""
    return helper.make_node("Gather", [source, places], [result], name=name or result, axis=-1)


def _owners(layers: Mapping[str, LowRankLinear]) -> dict[str, str]:
    """The layer that owns each layer's down factor: itself, or its leader."""
    names = {id(layer): name for name, layer in layers.items()}
    return {
        name: names[id(layer.leader)] if isinstance(layer, SharedLowRankLinear) else name
        for name, layer in layers.items()
    }


def _copy(node: NodeProto) -> NodeProto:
    fresh = NodeProto()
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
        down = f"{owner}.weight_down"
        wanted = {
            f"{name}.weight": sorted(layer.weight.shape),
            down: sorted(layer.weight_down.shape),
        }
        whole = all(sizes.get(key) == size for key, size in wanted.items()) and name in nodes
        first = makers.get(nodes[name].input[0]) if whole else None
        if first is not None and first.op_type == "Add":  # of a pivoted latent
            first = makers.get(first.input[1])
        if first is None or down not in first.input:
            raise ModelError(f"{name} is not two matrix products in the exported graph")
