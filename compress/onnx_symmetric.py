"""Layers of integers as TensorRT reads them: signed inputs whose zero point is 0.

onnxruntime and OpenVINO take the input of a product as unsigned integers with a zero point. With a
step s and a zero point z, let c = s (z - 128). An input that was rounded to q is then

    s (q - z) = s q' - c,  where q' = q - 128 = round((x + c) / s), between -128 and 127,

so c is added to the input, and c times the sum of each column of the weight is taken from the
product. Weights, scales and results stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_HALF = 128  # between the unsigned and the signed integers of 8 bits

Array = np.ndarray[Any, Any]


def make_symmetric(model: onnx.ModelProto) -> None:
    """Rewrite a graph in place; one without unsigned inputs stays as it is."""
    rewriting = _Rewriting(model.graph)
    nodes = [_copy(new) for node in model.graph.node for new in rewriting.of(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(rewriting.added.values())
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name in rewriting.replaced:
            del model.graph.initializer[index]


class _Rewriting:
    """The nodes in the place of others, and the constants that come and go with them, by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.added: dict[str, TensorProto] = {}
        self.replaced: set[str] = set()
        self._constants = {each.name: each for each in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}

    def of(self, node: NodeProto) -> Iterator[NodeProto]:
        """The node with what it needs around it."""
        if node.op_type == "QuantizeLinear" and self._is_unsigned(node):
            yield from self._quantized(node)
        elif node.op_type == "DequantizeLinear" and self._is_unsigned(node):
            yield self._signed(node)
        elif node.op_type == "MatMul" and self._is_rounded(node.input[0]):
            yield from self._product(node)
        else:
            yield node

    def _quantized(self, node: NodeProto) -> Iterator[NodeProto]:
        shifted = f"{node.name}/shifted"
        shift = self._constant(f"{node.name}/shift", self._shift(node))
        yield helper.make_node("Add", [node.input[0], shift], [shifted], name=shifted)
        signed = self._signed(node)
        signed.input[0] = shifted
        yield signed

    def _product(self, node: NodeProto) -> Iterator[NodeProto]:
        rounded, weight = (self._makers[name] for name in node.input)
        codes, scales, _ = (self._values(name) for name in weight.input)
        sums = codes.astype(np.float64).sum(axis=0) * scales
        correction = (self._shift(rounded) * sums).astype(np.float32)
        (result,) = node.output
        found = _copy(node)
        found.output[0] = f"{node.name}/uncorrected"
        yield found
        constant = self._constant(f"{node.name}/correction", correction)
        yield helper.make_node(
            "Sub", [found.output[0], constant], [result], name=f"{node.name}/corrected"
        )

    def _signed(self, node: NodeProto) -> NodeProto:
        """The same rounding with the zero point 0."""
        found = _copy(node)
        self.replaced.add(node.input[2])
        zero = np.zeros_like(self._values(node.input[2]), np.int8)
        found.input[2] = self._constant("signed_zero", zero)
        return found

    def _shift(self, node: NodeProto) -> Array:
        step, zero = (self._values(name) for name in node.input[1:3])
        shift: Array = step * (zero.astype(np.float32) - _HALF)
        return shift

    def _is_rounded(self, name: str) -> bool:
        maker = self._makers.get(name)
        return (
            maker is not None and maker.op_type == "DequantizeLinear" and self._is_unsigned(maker)
        )

    def _is_unsigned(self, node: NodeProto) -> bool:
        zero = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        return zero is not None and zero.data_type == TensorProto.UINT8

    def _values(self, name: str) -> Array:
        return numpy_helper.to_array(self._constants[name])

    def _constant(self, name: str, values: Array) -> str:
        self.added[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name


def _copy(node: NodeProto) -> NodeProto:
    fresh = NodeProto()
    fresh.CopyFrom(node)
    return fresh
