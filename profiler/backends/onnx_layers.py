"""ONNX graphs of one layer, in any form, with random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from autotune.core import block_products
from autotune.core.forms import (
    INT4_WEIGHT_ONLY,
    INT8_DYNAMIC,
    INT8_STATIC,
    INT8_WEIGHT_ONLY,
    NATIVE,
    PIVOTED,
    WEIGHT_BLOCK,
    pivots_inputs,
)
from autotune.core.layers import LayerShape

NUMPY_DTYPES = {"fp32": np.float32, "fp16": np.float16}
_STEP = 7919  # numbers from the first of one weight to that of the next


def layer_model(shape: LayerShape, copies: int, *, opset: int = 20) -> bytes:
    """An ONNX model with `copies` independent instances of the layer on one input x (M, K).

    Where an input is rounded in the range that it has, each instance has one of its own (x, x1,
    x2, …): what is the same would be rounded once for all.
    """
    from onnx import helper

    layers = _Layers(shape)
    for copy in range(copies):
        layers.add(copy)
    size = [shape.tokens, shape.in_features]
    inputs = [
        helper.make_tensor_value_info(name, layers.element, size)
        for name in dict.fromkeys(map(layers.input_of, range(copies)))
    ]
    graph = helper.make_graph(layers.nodes, "layer", inputs, layers.outputs, layers.weights)
    # What TensorRT 8 reads is older than what its opset could be written in.
    domains = {"": opset}
    if shape.form.precision in block_products.BITS:
        domains[block_products.DOMAIN] = block_products.DOMAIN_VERSION
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*each) for each in domains.items()],
        ir_version=8 if opset < 18 else 10,
    )
    return bytes(model.SerializeToString())


class _Layers:
    """Nodes, weights and outputs of several instances of a layer."""

    def __init__(self, shape: LayerShape) -> None:
        from onnx import helper

        self.shape = shape
        self.dtype = np.dtype(NUMPY_DTYPES[shape.dtype])
        self.element = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.outputs: list[Any] = []
        # Of the present instance, by what is rounded: several products share it.
        self._rounded: dict[str, tuple[str, ...]] = {}

    def input_of(self, copy: int) -> str:
        """The input that an instance reads."""
        own = copy and self.shape.form.precision == INT8_DYNAMIC
        return f"x{copy}" if own else "x"

    def add(self, copy: int) -> None:
        """One more instance."""
        self._rounded = {}
        source = self.input_of(copy)
        shape, k, rank = self.shape, self.shape.in_features, self.shape.rank
        product = self._PRODUCTS[shape.form.precision]
        joint = len(shape.widths) > 1
        pivoted = shape.form.structure == PIVOTED
        chooses = pivoted and pivots_inputs(k, shape.out_features, shared=joint)
        if not rank:
            latent = source
        elif chooses:
            latent = self._chosen_latent(copy)
        else:
            latent = product(self, source, k, columns=rank, result=f"h{copy}")
        for part, n in enumerate(shape.widths):
            result = f"y{copy}_{part}"
            if pivoted and not chooses:
                self._held(latent, result=result, columns=n)
            else:
                product(self, latent, rank or k, columns=n, result=result)
            self._output(result, n)

    def _chosen_latent(self, copy: int) -> str:
        """R of the inputs, and the product of the others added to them."""
        k, rank, result = self.shape.in_features, self.shape.rank, f"h{copy}"
        order = np.random.default_rng(copy).permutation(k)
        parts = np.split(order, [rank])
        chosen, rest = (
            self._gather("x", np.sort(part), result=f"{result}_{name}")
            for name, part in zip(("chosen", "rest"), parts, strict=True)
        )
        product = self._product(rest, k - rank, columns=rank, result=f"{result}_product")
        return self._node("Add", [chosen, product], result=result)

    def _held(self, latent: str, *, result: str, columns: int) -> str:
        """Outputs of which r are the latent itself, in their order."""
        rank = self.shape.rank
        rest = self._product(latent, rank, columns=columns - rank, result=f"{result}_rest")
        both = self._node("Concat", [latent, rest], result=f"{result}_both", axis=-1)
        places = np.random.default_rng(len(self.weights)).permutation(columns)
        return self._gather(both, places, result=result)

    def _product(self, source: str, rows: int, *, columns: int, result: str) -> str:
        values = _noise(len(self.weights), rows * columns).reshape(rows, columns)
        values = values * np.float32(rows**-0.5)
        weight = self._weight(f"w_{result}", values.astype(self.dtype, copy=False))
        return self._node("MatMul", [source, weight], result=result)

    def _static_product(self, source: str, rows: int, *, columns: int, result: str) -> str:
        """Rounded around a product in floating point, which the runtime fuses."""
        codes, scales, zeros = self._codes(rows, columns, result=result)
        if source not in self._rounded:
            self._rounded[source] = (self._statically_rounded(source, rows, result=result),)
        weight = self._node(
            "DequantizeLinear", [codes, scales, zeros], result=f"{result}_weight", axis=1
        )
        return self._node("MatMul", [*self._rounded[source], weight], result=result)

    def _statically_rounded(self, source: str, width: int, *, result: str) -> str:
        # Steps of its own, or copies would share the rounding of their input.
        step = np.float32(2.0**-5 * (1 + len(self.weights) * 1e-4))
        around = [self._weight(f"s_{result}", step), self._weight(f"o_{result}", np.uint8(128))]
        if source == "x":  # a latent needs no smoothing
            inverse = np.full(width, 1 + len(self.weights) * 1e-4, np.float32)
            source = self._node(
                "Mul", [source, self._weight(f"i_{result}", inverse)], result=f"{result}_smoothed"
            )
        rounded = self._node("QuantizeLinear", [source, *around], result=f"{result}_codes")
        return self._node("DequantizeLinear", [rounded, *around], result=f"{result}_x")

    def _dynamic_product(self, source: str, rows: int, *, columns: int, result: str) -> str:
        """A product of integers, whose input is rounded in its own range."""
        from onnx import TensorProto, helper

        codes, scales, zeros = self._codes(rows, columns, result=result)
        if source not in self._rounded:
            self._rounded[source] = (f"{result}_codes", f"{result}_step", f"{result}_zero")
            self.nodes.append(
                helper.make_node("DynamicQuantizeLinear", [source], [*self._rounded[source]])
            )
        x, step, zero = self._rounded[source]
        sums = self._node("MatMulInteger", [x, codes, zero, zeros], result=f"{result}_sums")
        real = self._node("Cast", [sums], result=f"{result}_real", to=TensorProto.FLOAT)
        both = self._node("Mul", [step, scales], result=f"{result}_scale")
        return self._node("Mul", [real, both], result=result)

    def _block_product(self, source: str, rows: int, *, columns: int, result: str) -> str:
        """Weights in blocks of inputs, each with a scale."""
        bits = block_products.BITS[self.shape.form.precision]
        blocks = -(-rows // WEIGHT_BLOCK)
        size = columns * blocks * WEIGHT_BLOCK * bits // 8
        drawn = np.random.default_rng(len(self.weights)).integers(0, 256, size, dtype=np.uint8)
        codes = self._weight(f"w_{result}", drawn.reshape(columns, blocks, -1))
        scales = np.full(columns * blocks, rows**-0.5 / 2 ** (bits - 1), np.float32)
        return self._node(
            block_products.OPERATOR,
            [source, codes, self._weight(f"ws_{result}", scales)],
            result=result,
            **block_products.attributes(in_features=rows, out_features=columns, bits=bits),
        )

    def _codes(self, rows: int, columns: int, *, result: str) -> tuple[str, str, str]:
        """A random weight in 8 bits, its scales and its zero points."""
        drawn = _noise(len(self.weights), rows * columns).reshape(rows, columns)
        codes = (drawn * 30).clip(-127, 127).astype(np.int8)
        scales = np.full(columns, rows**-0.5 / 30, np.float32)
        return (
            self._weight(f"w_{result}", codes),
            self._weight(f"ws_{result}", scales),
            self._weight(f"wo_{result}", np.zeros(columns, np.int8)),
        )

    _PRODUCTS: ClassVar[Mapping[str, Callable[..., str]]] = {
        NATIVE: _product,
        INT8_STATIC: _static_product,
        INT8_DYNAMIC: _dynamic_product,
        INT8_WEIGHT_ONLY: _block_product,
        INT4_WEIGHT_ONLY: _block_product,
    }

    def _gather(self, source: str, places: Any, *, result: str) -> str:
        indices = self._weight(f"i_{result}", places.astype(np.int64))
        return self._node("Gather", [source, indices], result=result, axis=-1)

    def _weight(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def _node(self, operator: str, inputs: list[str], *, result: str, **settings: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [result], **settings))
        return result

    def _output(self, name: str, width: int) -> None:
        from onnx import helper

        shape = [self.shape.tokens, width]
        self.outputs.append(helper.make_tensor_value_info(name, self.element, shape))


def _noise(number: int, size: int) -> Any:
    """Standard normal numbers for one weight, others than those of the weights before it."""
    drawn = _normal()
    start = _STEP * number % (drawn.size // 2)
    return np.resize(drawn[start : start + size], size)


@functools.cache
def _normal() -> Any:
    """Repeated for larger weights: to draw all anew took most of a layer's preparation."""
    return np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
