"""Attention where tools that look for another operator of that name do not find it.

onnxruntime's quantizer takes ONNX's Attention for its own operator (com.microsoft) and writes a
graph that does not load. It looks at nodes at the top of a graph alone, so each Attention stands in
the branch of an If that is always taken. onnxruntime and OpenVINO put the branch in the place of
the If when they open a graph, so that it costs nothing.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, ValueInfoProto, helper, numpy_helper

_OPERATOR = "Attention"
_ALWAYS = "always"


def enclose_attention(model: onnx.ModelProto) -> None:
    """Put every Attention at the top of a graph into a branch that is always taken, in place."""
    graph = model.graph
    nodes = [_enclosed(node) if _is_attention(node) else _copy(node) for node in graph.node]
    if not any(map(_is_attention, graph.node)):
        return
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.array(True), _ALWAYS))


def _is_attention(node: NodeProto) -> bool:
    return node.op_type == _OPERATOR and not node.domain


def _enclosed(node: NodeProto) -> NodeProto:
    """An If in the place of `node`; its other branch has as many outputs and is never run."""
    inner = _copy(node)
    names = [name for name in node.output if name]
    renamed = {name: f"{name}/inside" for name in names}
    del inner.output[:]
    inner.output.extend(renamed.get(name, "") for name in node.output)
    taken = helper.make_graph([inner], "taken", [], [_output(name) for name in renamed.values()])
    other = [helper.make_node("Identity", [node.input[0]], [f"{name}/outside"]) for name in names]
    never = helper.make_graph(other, "never", [], [_output(one.output[0]) for one in other])
    return helper.make_node(
        "If", [_ALWAYS], names, name=node.name, then_branch=taken, else_branch=never
    )


def _output(name: str) -> ValueInfoProto:
    """An output of a branch, whose type readers infer."""
    return ValueInfoProto(name=name)


def _copy(node: NodeProto) -> NodeProto:
    fresh = NodeProto()
    fresh.CopyFrom(node)
    return fresh
