"""OpenVINO on the CPU."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autotune.core.errors import ModelError
from autotune.core.forms import INT8_STATIC, PLAIN, Form
from autotune.core.layers import LayerShape
from autotune.profiler.backends.base import (
    Backend,
    NetworkLoader,
    TimedLayer,
    load_inputs,
    typical_latencies,
)
from autotune.profiler.backends.onnx_layers import layer_model
from autotune.profiler.measure.timing import Runner

# The dtype that a graph shall be run in, among the metadata of the graph. OpenVINO chooses bf16 by
# itself on processors that have it, so that one file gives other answers on another machine.
INFERENCE_DTYPE = "autotune.inference_dtype"
_PRECISION = "INFERENCE_PRECISION_HINT"
_HINTS = {"fp32": "f32", "bf16": "bf16"}
# One request at a time has all threads, each on a processor of its own.
_SETTINGS = {"NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "YES", "CACHE_DIR": ""}
_DEVICE = "CPU"


class OpenVinoCpu(Backend):
    """ONNX graphs in fp32, which are run in the dtype that their metadata name.

    A bf16 network keeps its weights in fp32 in the file and rounds them when it is compiled.
    """

    name = "openvino-cpu"
    packages: tuple[str, ...] = ("openvino", "onnx")
    dtypes: tuple[str, ...] = ("fp32",)
    device_kinds = ("cpu",)
    profiles_nodes = True
    opens_onnx = True

    def builder_for(self, dtype: str) -> str:
        """The dense graph in fp32 is rewritten, and names the dtype that it shall be run in."""
        del dtype
        return "openvino-onnx"

    def implements(self, form: Form) -> bool:
        """Plain and pivoted pairs; in integers plain ones with static ranges."""
        if form.precision == INT8_STATIC:
            return form.structure == PLAIN and self.runs_int8()
        return super().implements(form)

    def inference_dtypes(self, dtype: str) -> tuple[str, ...]:
        """Those of fp32 and bf16 that this processor has instructions for."""
        able = _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        return (dtype, *(["bf16"] if "BF16" in able else []))

    def runtime_options(self, dtype: str) -> dict[str, str]:
        """The hint that stops OpenVINO from choosing the dtype by the processor."""
        return {_PRECISION: _HINTS[dtype]}

    def settings(self) -> dict[str, str]:
        """Properties of the compiled model, which a fingerprint records."""
        return dict(_SETTINGS)

    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """A model of this one layer, whose input and outputs are in the dtype of the shape.

        In a network the neighbours are in that dtype too, and nothing is converted between them.
        """
        copies = self.copies(shape)
        model = _read(layer_model(dataclasses.replace(shape, dtype="fp32"), copies))
        x = np.random.default_rng(1).standard_normal((shape.tokens, shape.in_features))
        tensor = _tensor(x.astype(np.float32))
        if shape.dtype == "bf16":
            model, tensor = _in_bf16(model), _bf16_tensor(x.astype(np.float32))
        request = _compiled(model, threads, dtype=shape.dtype).create_infer_request()
        request.set_input_tensor(tensor)
        return TimedLayer(run=_runner(request), copies=copies)

    def network(
        self, artefact: Path, inputs: Path, *, threads: int, loader: NetworkLoader | None = None
    ) -> Runner:
        """The exported model; its inputs are set once."""
        del loader
        return _runner(_request(artefact, inputs, threads=threads))

    def node_latencies(
        self, artefact: Path, inputs: Path, *, threads: int, again: Callable[[], bool]
    ) -> dict[str, float]:
        """As OpenVINO counts them; a product that took its bias along keeps its own name."""
        request = _request(artefact, inputs, threads=threads, counting=True)
        run, products = _runner(request), _products(artefact)
        durations: dict[str, list[float]] = defaultdict(list)
        while again():
            run()
            for node in request.profiling_info:
                name = products.get(node.node_name, node.node_name)
                durations[name].append(node.real_time.total_seconds())
        return typical_latencies(durations)


def open_model(path: Path, threads: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The named outputs of a graph as a function of its named inputs, in the graph's own dtype.

    Raises:
        ModelError: OpenVINO refuses it.
        ImportError: OpenVINO is not installed.
    """
    try:
        compiled = _compiled(_read(path), threads, dtype=inference_dtype(path))
    except ImportError:
        raise  # OpenVINO is not installed, which is no fault of the graph
    except Exception as error:  # openvino raises plain RuntimeErrors
        raise ModelError(f"OpenVINO cannot open {path}: {error}") from error
    names = [output.get_any_name() for output in compiled.outputs]

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        results = compiled(dict(feeds))
        return {name: np.array(results[name]) for name in names}

    return run


def save_ir(graph: Path, path: Path) -> None:
    """Write a graph in OpenVINO's own format, with the dtype that it shall be run in.

    Args:
        graph: The ONNX graph.
        path: The `.xml` file; the weights, in fp32, go into `.bin` beside it.

    Raises:
        ModelError: OpenVINO does not read the graph.
        ImportError: OpenVINO is not installed.
    """
    import openvino

    try:
        model = _read(graph)
    except Exception as error:  # openvino raises plain RuntimeErrors
        raise ModelError(f"OpenVINO cannot read {graph.name}: {error}") from error
    model.set_rt_info(inference_dtype(graph), INFERENCE_DTYPE.split("."))
    path.parent.mkdir(exist_ok=True)
    openvino.save_model(model, path, compress_to_fp16=False)


def inference_dtype(path: Path) -> str:
    """The dtype that a graph, ONNX or IR, shall be run in: what its metadata say, else fp32."""
    if path.suffix == ".xml":
        info, place = _read(path), INFERENCE_DTYPE.split(".")
        return str(info.get_rt_info(place).astype(str)) if info.has_rt_info(place) else "fp32"
    import onnx

    model = onnx.load(path, load_external_data=False)
    return {each.key: each.value for each in model.metadata_props}.get(INFERENCE_DTYPE, "fp32")


def _products(path: Path) -> dict[str, str]:
    """The product by the other names that OpenVINO has for it.

    It makes one node of a product and its bias and calls it by the second name; what computes an
    output of the network is called by that one's name.
    """
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    products = {n.output[0]: n.name for n in nodes if n.op_type in ("MatMul", "Gemm")}
    names = dict(products)
    for node in nodes:
        for source in node.input if node.op_type == "Add" else ():
            if source in products:
                names |= {node.name: products[source], node.output[0]: products[source]}
    return names


def _core() -> Any:
    import openvino

    return openvino.Core()


def _read(model: Path | bytes) -> Any:
    return _core().read_model(str(model) if isinstance(model, Path) else model)


def _compiled(model: Any, threads: int, *, dtype: str, counting: bool = False) -> Any:
    config = {
        **_SETTINGS,
        _PRECISION: _HINTS[dtype],
        "INFERENCE_NUM_THREADS": str(threads),
        "PERF_COUNT": "YES" if counting else "NO",
    }
    return _core().compile_model(model, _DEVICE, config)


def _in_bf16(model: Any) -> Any:
    """The model with inputs and outputs in bf16."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    around = PrePostProcessor(model)
    around.input().tensor().set_element_type(openvino.Type.bf16)
    for index in range(len(model.outputs)):
        around.output(index).tensor().set_element_type(openvino.Type.bf16)
    return around.build()


def _request(path: Path, inputs: Path, *, threads: int, counting: bool = False) -> Any:
    compiled = _compiled(_read(path), threads, dtype=inference_dtype(path), counting=counting)
    request = compiled.create_infer_request()
    for name, array in load_inputs(inputs).items():
        request.set_tensor(name, _tensor(array))
    return request


def _tensor(array: Any) -> Any:
    import openvino

    return openvino.Tensor(np.ascontiguousarray(array))


def _bf16_tensor(array: Any) -> Any:
    """The upper halves of fp32 numbers; numpy has no bf16."""
    import openvino

    bits = (array.view(np.uint32) >> 16).astype(np.uint16)
    tensor = openvino.Tensor(openvino.Type.bf16, array.shape)
    # One of an array has that memory while Python holds it, and a request does not.
    openvino.Tensor(bits, array.shape, openvino.Type.bf16).copy_to(tensor)
    return tensor


def _runner(request: Any) -> Runner:
    def run() -> None:
        # In this thread: `start_async` has one more that competes for the cores, and nearly every
        # window of a measurement counted as disturbed. Shared outputs are not copied.
        request.infer(share_inputs=True, share_outputs=True)

    return run
