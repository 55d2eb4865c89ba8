"""Trace a model to an ONNX graph whose sites can be found again."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TextIO

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autotune.compress.onnx_attention import enclose_attention
from autotune.compress.onnx_broadcast import expand_operands
from autotune.core.errors import ModelError, foreign_code, option_name
from autotune.core.progress import Advance, no_progress

OPSET = 23  # the first with Attention, RotaryEmbedding and RMSNormalization as single nodes
# Counts up when graphs are written in another way.
TRACE_VERSION = 2
# The attribute of a traced module that holds the model.
WRAPPED = "wrapped"


# What to do with a model that has no right graph.
ADVICE = f"tune it without a graph ({option_name('machine.backend')} torch-eager)"


class _WithoutGraphs(io.TextIOBase):
    """A stream for progress, but not for the graph that the tracer prints when it fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if "def forward(" in text else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports to stdout, warnings and logs; ours says what matters itself."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(_WithoutGraphs(sys.stderr)),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _OwnHeads(TorchFunctionMode):
    """Attention in which all queries share one head of keys and values, with a head for each.

    PyTorch broadcasts the one (Falcon); the exporter refuses it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention and len(args) >= 3:
            query, *shared = args[:3]
            if query.ndim == 4 and query.shape[1] != 1:
                shared = [
                    each.expand(-1, query.shape[1], -1, -1) if each.shape[1] == 1 else each
                    for each in shared
                ]
            args = (query, *shared, *args[3:])
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _batched_experts(model: nn.Module) -> Iterator[None]:
    """Mixtures of experts as batched products: grouped ones have no ONNX operator."""
    if getattr(getattr(model, "config", None), "_experts_implementation", None) is None:
        yield
        return
    experts: Any = model
    before = experts.get_experts_implementation()
    experts.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        experts.set_experts_implementation(before)


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    dynamic: Sequence[Mapping[int, str]],
    outputs: Sequence[str],
    sites: Collection[str],
    progress: Advance = no_progress,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """The graph of `module(*inputs)`, its model under `module.wrapped`.

    `dynamic` names the dimensions of each input that may vary, by position; none of them may be 0
    or 1 in `inputs`, which the tracer would take for constants. The node of every site, a module's
    name, is named after it, its weight `<site>.weight`.

    Raises:
        ModelError: the model does not trace, or a site has no single matrix product in the graph.
    """
    graph = _exported(
        module, inputs, dynamic=dynamic, outputs=outputs, progress=progress, opset=opset
    )
    _name_sites(graph, sites)
    _name_dimensions(graph, dynamic)
    _drop_trace_metadata(graph)
    expand_operands(graph)
    enclose_attention(graph)
    return graph


def _exported(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    dynamic: Sequence[Mapping[int, str]],
    outputs: Sequence[str],
    progress: Advance,
    opset: int,
) -> onnx.ModelProto:
    """What the exporter makes of it, whatever it raises in one sentence."""
    shapes = tuple(dict.fromkeys(names, torch.export.Dim.AUTO) for names in dynamic)
    with (
        foreign_code(f"the model cannot be exported to ONNX: <why>; {ADVICE}"),
        _quiet(),
        _batched_experts(module.get_submodule(WRAPPED)),
        _OwnHeads(),
    ):
        progress(0, 3)
        traced = torch.export.export(
            module, tuple(inputs.values()), dynamic_shapes=(shapes,), strict=False
        )
        progress(1, 3)
        program = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=opset,
            verbose=False,
        )
        progress(2, 3)
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    return graph


def _name_sites(model: onnx.ModelProto, sites: Collection[str]) -> None:
    weights = {w.name: w for w in model.graph.initializer}
    found: dict[str, onnx.NodeProto] = {}
    names = set(sites)
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
            f"{missing[0]} is not a matrix product in the exported graph; leave it dense with "
            f"{option_name('method.ignore')} '{missing[0]}'"
        )
    uses = [name for node in model.graph.node for name in node.input]
    for site, node in found.items():
        if uses.count(node.input[1]) != 1:
            raise ModelError(f"{site} shares its weight in the exported graph")
        weights[node.input[1]].name = f"{site}.weight"
        node.input[1] = f"{site}.weight"
        node.name = site


def _name_dimensions(model: onnx.ModelProto, names: Sequence[Mapping[int, str]]) -> None:
    """Name the tracer's symbols by where they stand in the inputs: (batch, sequence, …).

    Raises:
        ModelError: one of them is a constant.
    """
    readable: dict[str, str] = {}
    for value, dimensions in zip(model.graph.input, names, strict=True):
        dims = value.type.tensor_type.shape.dim
        for position, name in dimensions.items():
            if not dims[position].dim_param:
                raise ModelError(
                    f"the exported graph would take one {name.replace('_', ' ')} only: the model's "
                    f"code fixes it at {dims[position].dim_value} in {value.name}; {ADVICE}"
                )
            readable.setdefault(dims[position].dim_param, name)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in readable:  # setting a name would clear a fixed size
                dim.dim_param = readable[dim.dim_param]


def _scope_site(node: onnx.NodeProto, names: set[str]) -> str | None:
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            for scope in reversed(ast.literal_eval(entry.value)):
                name = scope.removeprefix(f"{WRAPPED}.")
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
