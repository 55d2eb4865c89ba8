"""ONNX nodes of layers of integers, in the place of a dense product.

Static ranges are QuantizeLinear and DequantizeLinear around an ordinary product, which runtimes
fuse, behind a multiplication with the inverse of the smoothing. (QuantizeLinear with a scale for
each feature would do without, but onnxruntime takes forty times as long for it.) Ranges that are
found at each call are DynamicQuantizeLinear and MatMulInteger. Weights in blocks are onnxruntime's
own MatMulNBits, which rounds its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from autotune.compress.integer_layers import (
    BlockQuantizer,
    IntegerLinear,
    IntegerLowRankLinear,
    SharedIntegerLowRankLinear,
    StaticQuantizer,
)
from autotune.compress.integer_weights import BYTE, LAYOUTS, WeightLayout
from autotune.core import block_products

IntegerLayer = IntegerLinear | IntegerLowRankLinear | SharedIntegerLowRankLinear
INTEGER_LAYERS = (IntegerLinear, IntegerLowRankLinear, SharedIntegerLowRankLinear)


@dataclass(frozen=True)
class _Weight:
    """One stored matrix of a layer, which has so many columns."""

    layer: Any
    name: str
    columns: int

    @property
    def layout(self) -> WeightLayout:
        return LAYOUTS[self.layer.precision]

    @property
    def codes(self) -> Tensor:
        stored: Tensor = getattr(self.layer, self.name).detach()
        return stored

    @property
    def scale(self) -> Tensor:
        stored: Tensor = getattr(self.layer, f"{self.name}_scale").detach()
        return stored

    @property
    def rows(self) -> int:
        return len(self.scale) // self.layout.blocks(self.columns)


class IntegerNodes:
    """Makes the nodes; what several layers share is made once.

    Names begin with the layer's own, followed by a slash, so that a profile of the running network
    finds them. `added` are the weights and constants, by name.
    """

    def __init__(self) -> None:
        self.added: dict[str, Any] = {}
        self._rounded: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._latents: dict[tuple[int, str], str] = {}

    def of(self, node: NodeProto, layer: IntegerLayer) -> Iterator[NodeProto]:
        """The nodes in the place of the dense product `node`."""
        name, source, (result,) = node.name, node.input[0], node.output
        quantizer: nn.Module
        if isinstance(layer, IntegerLinear):
            quantizer = layer.input_quantizer
        else:
            leader: Any = layer.leader if isinstance(layer, SharedIntegerLowRankLinear) else layer
            if (id(leader), source) not in self._latents:
                latent = f"{name}.latent"
                yield from self._product(
                    f"{name}.down",
                    source,
                    weight=_Weight(leader, "weight_down", leader.in_features),
                    quantizer=leader.input_quantizer,
                    result=latent,
                )
                self._latents[id(leader), source] = latent
            source, quantizer = self._latents[id(leader), source], leader.latent_quantizer
        bias = list(node.input[2:])  # of a Gemm
        product = f"{name}/product" if bias else result
        columns = layer.in_features if isinstance(layer, IntegerLinear) else layer.rank
        yield from self._product(
            name,
            source,
            weight=_Weight(layer, "weight", columns),
            quantizer=quantizer,
            result=product,
        )
        if bias:
            yield helper.make_node("Add", [product, *bias], [result], name=f"{name}/bias")

    def _product(
        self, name: str, source: str, *, weight: _Weight, quantizer: nn.Module, result: str
    ) -> Iterator[NodeProto]:
        if isinstance(quantizer, BlockQuantizer):
            yield self._block_product(name, source, weight=weight, result=result)
        elif isinstance(quantizer, StaticQuantizer):
            yield from self._statically(name, source, quantizer=quantizer)
            yield from self._static_product(
                name, self._rounded[_key(source, quantizer)], weight=weight, result=result
            )
        else:
            yield from self._dynamically(name, source)
            yield from self._dynamic_product(
                name, self._rounded[(source,)], weight=weight, result=result
            )

    def _static_product(
        self, name: str, x: tuple[str, ...], *, weight: _Weight, result: str
    ) -> Iterator[NodeProto]:
        parts, whole = self._of_rows(name, weight), f"{name}/weight"
        yield helper.make_node("DequantizeLinear", list(parts), [whole], name=whole, axis=1)
        yield helper.make_node("MatMul", [*x, whole], [result], name=name)

    def _dynamic_product(
        self, name: str, x: tuple[str, ...], *, weight: _Weight, result: str
    ) -> Iterator[NodeProto]:
        codes, scales, zeros = self._of_rows(name, weight)
        x_codes, x_scale, x_zero = x
        sums, real, step = f"{name}/sums", f"{name}/float", f"{name}/step"
        yield helper.make_node("MatMulInteger", [x_codes, codes, x_zero, zeros], [sums], name=sums)
        yield helper.make_node("Cast", [sums], [real], name=real, to=TensorProto.FLOAT)
        yield helper.make_node("Mul", [x_scale, scales], [step], name=step)
        yield helper.make_node("Mul", [real, step], [result], name=f"{name}/scaled")

    def _block_product(self, name: str, source: str, *, weight: _Weight, result: str) -> NodeProto:
        """Codes (rows, blocks, bytes of a block), without a sign."""
        layout, rows = weight.layout, weight.rows
        stored = weight.codes
        if layout.bits == BYTE:
            stored = (stored.short() + 128).to(torch.uint8)
        codes = stored.reshape(rows, layout.blocks(weight.columns), -1)
        return helper.make_node(
            block_products.OPERATOR,
            [source, self._add(f"{name}.codes", codes), self._add(f"{name}.scales", weight.scale)],
            [result],
            name=name,
            **block_products.attributes(
                in_features=weight.columns, out_features=rows, bits=layout.bits
            ),
        )

    def _of_rows(self, name: str, weight: _Weight) -> tuple[str, str, str]:
        """Codes (columns, rows), scales and zero points of a weight with a scale for each row."""
        matrix = weight.layout.unpack(weight.codes, weight.rows).T
        return (
            self._add(f"{name}.codes", matrix),
            self._add(f"{name}.scales", weight.scale),
            self._constant(f"{name}.zeros", np.zeros(weight.rows, np.int8)),
        )

    def _statically(
        self, name: str, source: str, *, quantizer: StaticQuantizer
    ) -> Iterator[NodeProto]:
        """The rounded input, which the layers with the same rounding share."""
        if _key(source, quantizer) in self._rounded:
            return
        steps = self._constant(f"{name}.input_scale", quantizer.scale.numpy())
        zero = quantizer.zero_point.numpy().astype(np.uint8)
        zero_point = self._constant(f"{name}.input_zero", zero)
        smoothed = source
        if bool((quantizer.smoothing != 1).any()):
            smoothed = f"{name}/smoothed"
            inverse = self._add(f"{name}.smoothing", quantizer.smoothing.reciprocal())
            yield helper.make_node("Mul", [source, inverse], [smoothed], name=smoothed)
        codes, x = f"{name}/codes", f"{name}/x"
        yield helper.make_node("QuantizeLinear", [smoothed, steps, zero_point], [codes], name=codes)
        yield helper.make_node("DequantizeLinear", [codes, steps, zero_point], [x], name=x)
        self._rounded[_key(source, quantizer)] = (x,)

    def _dynamically(self, name: str, source: str) -> Iterator[NodeProto]:
        if (source,) in self._rounded:
            return
        outputs = (f"{name}/codes", f"{name}/x_scale", f"{name}/x_zero")
        yield helper.make_node(
            "DynamicQuantizeLinear", [source], list(outputs), name=f"{name}/codes"
        )
        self._rounded[(source,)] = outputs

    def _add(self, name: str, values: Tensor) -> str:
        return self._constant(name, values.detach().contiguous().numpy())

    def _constant(self, name: str, values: Any) -> str:
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name


def _key(source: str, quantizer: StaticQuantizer) -> tuple[object, ...]:
    parts = (quantizer.scale, quantizer.zero_point, quantizer.smoothing)
    return (source, *(part.numpy().tobytes() for part in parts))
