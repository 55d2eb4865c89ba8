"""Operands that ONNX broadcasts and onnxruntime does not, expanded in the graph.

The tracer leaves a tensor that is the same for every sequence with one row. onnxruntime takes it
as it stands: a graph traced with two sequences then runs with one only, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_COS, _SIN, _POSITIONS = 1, 2, 3  # inputs of RotaryEmbedding
_QUERY, _MASK = 0, 3  # inputs of Attention


def expand_operands(model: onnx.ModelProto) -> None:
    """Give every RotaryEmbedding a row of cosines per sequence, every Attention mask its queries.

    In place. An operand that has its full shape already passes through unchanged.
    """
    rewriter = _Rewriter(model)
    nodes = [made for node in model.graph.node for made in rewriter.of(node)]
    kept = []
    for node in nodes:
        fresh = NodeProto()
        fresh.CopyFrom(node)
        kept.append(fresh)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(rewriter.constants.values())


class _Rewriter:
    """Puts an Expand before the first node that reads an operand; later ones share it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.constants: dict[str, TensorProto] = {}
        self._ranks = {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info)
        }
        self._expanded: dict[tuple[str, str], str] = {}

    def of(self, node: NodeProto) -> Iterator[NodeProto]:
        """`node`, after the nodes that expand its operands."""
        inputs = node.input
        if node.op_type == "RotaryEmbedding" and (len(inputs) <= _POSITIONS or not inputs[3]):
            for index in (_COS, _SIN):  # (batch, sequence, half of the head size)
                yield from self._expand(node, index, source=inputs[0], axis=0, tail=(1, 1))
        elif node.op_type == "Attention" and self._has_mask(inputs):  # (…, queries, keys)
            yield from self._expand(node, _MASK, source=inputs[_QUERY], axis=2, tail=(1,))
        yield node

    def _has_mask(self, inputs: Sequence[str]) -> bool:
        """Whether an Attention has one, and a query (batch, heads, queries, size)."""
        return len(inputs) > _MASK and bool(inputs[_MASK]) and self._ranks.get(inputs[_QUERY]) == 4

    def _expand(
        self, node: NodeProto, index: int, *, source: str, axis: int, tail: tuple[int, ...]
    ) -> Iterator[NodeProto]:
        """Operand `index` as large as dimension `axis` of `source`, `tail` behind it."""
        operand = node.input[index]
        key = (operand, f"{axis}")
        if key not in self._expanded:
            name = f"{operand}.expanded"
            self._expanded[key] = name
            yield helper.make_node(
                "Shape", [source], [f"{name}.size"], name=f"{name}.size", start=axis, end=axis + 1
            )
            shape = [f"{name}.size", self._constant(tail)]
            yield helper.make_node("Concat", shape, [f"{name}.shape"], name=f"{name}.shape", axis=0)
            yield helper.make_node("Expand", [operand, f"{name}.shape"], [name], name=name)
        node.input[index] = self._expanded[key]

    def _constant(self, tail: tuple[int, ...]) -> str:
        name = f"autotune.ones_{len(tail)}"
        self.constants[name] = numpy_helper.from_array(np.array(tail, dtype=np.int64), name)
        return name
