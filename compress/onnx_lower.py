"""Lower an exported graph to opset 17 for TensorRT 8, whose parser knows no later one.

The exporter starts at opset 18. What changed between the two and occurs in transformers is undone
here: axes of reductions become attributes again, Split loses its count. What opset 17 has and the
parser of TensorRT 8.5 has not is written out: LayerNormalization in fp32, parts of shapes, sums and
limits of whole numbers, NaN, constants of truth values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autotune.compress.onnx_export import EXTERNAL_ABOVE_BYTES, weight_bytes
from autotune.core.errors import ModelError

OPSET = 17
_IR_VERSION = 8  # of the onnx release that brought opset 17
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
_CHANGED = (
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Pad", "Resize", "ScatterElements",
    "ScatterND",
)  # fmt: skip


def lower(model: onnx.ModelProto) -> None:
    """Rewrite a graph of opset 18 in place.

    Raises:
        ModelError: another opset, or an operator that opset 17 has otherwise.
    """
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found != {"": 18}:
        raise ModelError(f"only graphs of opset 18 are lowered, this one imports {found}")
    changed = sorted({node.op_type for node in model.graph.node} & set(_CHANGED))
    if changed:
        raise ModelError(f"{changed[0]} is not the same in opset {OPSET}; export for TensorRT 10")
    if weight_bytes(model) > EXTERNAL_ABOVE_BYTES:
        raise ModelError("graphs above 2 GB are not lowered; export for TensorRT 10")
    types = _types(model)
    constants = {w.name: w for w in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes.extend(_LOWERED.get(node.op_type, _same)(node, constants, types=types))
    kept = [_copy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(constants[name] for name in _added(model, constants))
    model.opset_import[0].version = OPSET
    model.ir_version = min(model.ir_version, _IR_VERSION)
    onnx.checker.check_model(model)


Constants = dict[str, TensorProto]
Types = dict[str, int]


def _types(model: onnx.ModelProto) -> Types:
    """Element types of all values, as shape inference finds them."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _copy(node: NodeProto) -> NodeProto:
    fresh = NodeProto()
    fresh.CopyFrom(node)
    return fresh


def _added(model: onnx.ModelProto, constants: Constants) -> list[str]:
    present = {w.name for w in model.graph.initializer}
    return [name for name in constants if name not in present]


def _same(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    del constants, types
    yield node


def _reduction(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """Axes from an input to an attribute."""
    del types
    if len(node.input) > 1 and node.input[1]:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        node.attribute.append(helper.make_attribute("axes", axes))
    for attribute in list(node.attribute):
        if attribute.name == "noop_with_empty_axes":
            node.attribute.remove(attribute)
    del node.input[1:]
    yield node


def _split(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """Equal parts need no count."""
    del constants, types
    for attribute in list(node.attribute):
        if attribute.name == "num_outputs":
            node.attribute.remove(attribute)
    yield node


def _layer_norm(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """(x − mean) / √(variance + ε) · scale + bias over the last axis."""
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if settings.get("axis", -1) != -1 or len(node.output) > 1:
        raise ModelError(f"{node.name} normalises more than the last axis")
    x, scale, *bias = node.input
    (result,) = node.output
    kind = types.get(x, TensorProto.FLOAT)
    value = np.array(settings.get("epsilon", 1e-5), dtype=np.float32)
    epsilon = _constant(constants, f"{node.name}.epsilon", value=value)
    half = kind != TensorProto.FLOAT

    def make(operator: str, inputs: list[str], *, name: str, **more: Any) -> NodeProto:
        return helper.make_node(operator, inputs, [name], name=name, **more)

    def own(part: str) -> str:
        return f"{node.name}.{part}"

    source = x
    if half:
        source = own("wide")
        yield make("Cast", [x], name=source, to=TensorProto.FLOAT)
    yield make("ReduceMean", [source], name=own("mean"), axes=[-1], keepdims=1)
    yield make("Sub", [source, own("mean")], name=own("centred"))
    yield make("Mul", [own("centred"), own("centred")], name=own("square"))
    yield make("ReduceMean", [own("square")], name=own("variance"), axes=[-1], keepdims=1)
    yield make("Add", [own("variance"), epsilon], name=own("shifted"))
    yield make("Sqrt", [own("shifted")], name=own("deviation"))
    normal = own("normal_wide") if half else own("normal")
    yield make("Div", [own("centred"), own("deviation")], name=normal)
    if half:
        yield make("Cast", [normal], name=own("normal"), to=kind)
    yield make("Mul", [own("normal"), scale], name=own("scaled") if bias else result)
    if bias:
        yield make("Add", [own("scaled"), bias[0]], name=result)


def _shape(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """A part of a shape is gathered from the whole one: TensorRT 8.5 reads no start and end."""
    del types
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    del node.attribute[:]
    if "end" not in settings and not settings.get("start"):
        yield node
        return
    (result,) = node.output
    if "end" not in settings:
        raise ModelError(f"{node.name} takes the rest of a shape; export for TensorRT 10")
    chosen = list(range(settings.get("start", 0), settings["end"]))
    node.output[0] = f"{result}.whole"
    indices = _constant(constants, f"{result}.indices", value=np.array(chosen, dtype=np.int64))
    yield node
    yield helper.make_node("Gather", [node.output[0], indices], [result], name=f"{result}.part")


def _squeeze(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """What is squeezed without saying where has one dimension: a size taken from a shape."""
    del types
    if len(node.input) == 1:
        axes = np.array([0], dtype=np.int64)
        node.input.append(_constant(constants, f"{node.output[0]}.axes", value=axes))
    yield node


def _reshape(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """No dimension is 0 here, so it does not matter what 0 would mean."""
    del constants, types
    del node.attribute[:]
    yield node


def _is_nan(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """IsNaN as `x != x`: NaN alone differs from itself."""
    del constants, types
    (x,), (result,) = node.input, node.output
    yield helper.make_node("Equal", [x, x], [f"{result}.same"], name=f"{result}.equal")
    yield helper.make_node("Not", [f"{result}.same"], [result], name=f"{result}.not")


def _and(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """Whatever and True is itself: TensorRT 8.5 has no constants of truth values."""
    del types
    true = [name for name in node.input if name in constants and _all_true(constants[name])]
    rest = [name for name in node.input if name not in true]
    if len(true) == 1:
        node = helper.make_node("Identity", rest, list(node.output), name=node.name)
    yield node


def _all_true(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.BOOL and bool(numpy_helper.to_array(tensor).all())


def _cumulative(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """Whole numbers are summed up in fp32, which holds any position exactly."""
    (result,) = node.output
    kind = types.get(node.input[0], TensorProto.INT64)
    if kind in (TensorProto.FLOAT, TensorProto.FLOAT16):
        yield node
        return
    wide = f"{result}.wide"
    yield helper.make_node("Cast", [node.input[0]], [wide], name=wide, to=TensorProto.FLOAT)
    axis = numpy_helper.to_array(constants[node.input[1]])
    node.input[0] = wide
    # Counted from the front, which is what TensorRT 8.5 asks for.
    front = np.array(axis if axis >= 0 else axis + 2, dtype=axis.dtype)
    node.input[1] = _constant(constants, f"{result}.axis", value=front)
    node.output[0] = f"{result}.sum"
    yield node
    yield helper.make_node("Cast", [node.output[0]], [result], name=f"{result}.whole", to=kind)


def _clip(node: NodeProto, constants: Constants, *, types: Types) -> Iterator[NodeProto]:
    """Whole numbers with a lower end only: the larger of the two."""
    del constants
    whole = types.get(node.input[0]) in (TensorProto.INT64, TensorProto.INT32)
    if whole and len([name for name in node.input if name]) == 2:
        node = helper.make_node("Max", list(node.input[:2]), list(node.output), name=node.name)
    yield node


def _constant(constants: Constants, name: str, *, value: np.ndarray[Any, Any]) -> str:
    constants[name] = numpy_helper.from_array(value, name)
    return name


class _Lowering(Protocol):
    """The nodes that take the place of one."""

    def __call__(
        self, node: NodeProto, constants: Constants, *, types: Types
    ) -> Iterator[NodeProto]: ...


_LOWERED: dict[str, _Lowering] = {
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "And": _and,
    "Clip": _clip,
    "CumSum": _cumulative,
    "IsNaN": _is_nan,
    "Reshape": _reshape,
    "Shape": _shape,
    "Split": _split,
    "Squeeze": _squeeze,
    "LayerNormalization": _layer_norm,
}
