"""ONNX nodes of layers in 8 bits, in the place of a dense product.

Static ranges are QuantizeLinear and DequantizeLinear around an ordinary product, which runtimes
fuse, behind a multiplication with the inverse of the smoothing. (QuantizeLinear with a scale for
each feature would do without, but onnxruntime takes forty times as long for it.) Ranges that are
found at each call are DynamicQuantizeLinear and MatMulInteger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor, nn

from autotune.compress.int8_layers import (
    Int8Linear,
    Int8LowRankLinear,
    SharedInt8LowRankLinear,
    StaticQuantizer,
)

Int8Layer = Int8Linear | Int8LowRankLinear | SharedInt8LowRankLinear
INT8_LAYERS = (Int8Linear, Int8LowRankLinear, SharedInt8LowRankLinear)


class Int8Nodes:
    """Makes the nodes; what several layers share is made once.

    Names begin with the layer's own, followed by a slash, so that a profile of the running network
    finds them. `added` are the weights and constants, by name.
    """

    def __init__(self) -> None:
        self.added: dict[str, Any] = {}
        self._rounded: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._latents: dict[tuple[int, str], str] = {}

    def of(self, node: NodeProto, layer: Int8Layer) -> Iterator[NodeProto]:
        """The nodes in the place of the dense product `node`."""
        name, source, (result,) = node.name, node.input[0], node.output
        quantizer: nn.Module
        if isinstance(layer, Int8Linear):
            quantizer = layer.input_quantizer
        else:
            leader: Any = layer.leader if isinstance(layer, SharedInt8LowRankLinear) else layer
            if (id(leader), source) not in self._latents:
                latent = f"{name}.latent"
                yield from self._product(
                    f"{name}.down",
                    source,
                    quantizer=leader.input_quantizer,
                    codes=leader.weight_down,
                    scale=leader.weight_down_scale,
                    result=latent,
                )
                self._latents[id(leader), source] = latent
            source, quantizer = self._latents[id(leader), source], leader.latent_quantizer
        bias = list(node.input[2:])  # of a Gemm
        product = f"{name}/product" if bias else result
        yield from self._product(
            name,
            source,
            quantizer=quantizer,
            codes=layer.weight,
            scale=layer.weight_scale,
            result=product,
        )
        if bias:
            yield helper.make_node("Add", [product, *bias], [result], name=f"{name}/bias")

    def _product(
        self,
        name: str,
        source: str,
        *,
        quantizer: nn.Module,
        codes: Tensor,
        scale: Tensor,
        result: str,
    ) -> Iterator[NodeProto]:
        matrix = codes.detach().unflatten(0, (len(scale), -1)).T
        weight = self._add(f"{name}.codes", matrix)
        scales = self._add(f"{name}.scales", scale)
        zeros = self._constant(f"{name}.zeros", np.zeros(len(scale), np.int8))
        if isinstance(quantizer, StaticQuantizer):
            yield from self._statically(name, source, quantizer=quantizer)
            (x,) = self._rounded[_key(source, quantizer)]
            yield helper.make_node(
                "DequantizeLinear",
                [weight, scales, zeros],
                [f"{name}/weight"],
                name=f"{name}/weight",
                axis=1,
            )
            yield helper.make_node("MatMul", [x, f"{name}/weight"], [result], name=name)
            return
        yield from self._dynamically(name, source)
        x, x_scale, x_zero = self._rounded[(source,)]
        yield helper.make_node(
            "MatMulInteger", [x, weight, x_zero, zeros], [f"{name}/sums"], name=name
        )
        yield helper.make_node(
            "Cast", [f"{name}/sums"], [f"{name}/float"], name=f"{name}/float", to=1
        )
        yield helper.make_node("Mul", [x_scale, scales], [f"{name}/step"], name=f"{name}/step")
        yield helper.make_node(
            "Mul", [f"{name}/float", f"{name}/step"], [result], name=f"{name}/scaled"
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
