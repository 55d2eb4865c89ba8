"""TensorRT engines: layers and networks built from ONNX, timed as CUDA graphs."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from autotune.core.layers import LayerShape
from autotune.devices.detect import gpu_names
from autotune.profiler.backends.base import Backend, NetworkLoader, TimedLayer, load_inputs
from autotune.profiler.engines.builder import LIMIT_S, build_engine, missing_parts
from autotune.profiler.engines.engine_process import EngineProcess
from autotune.profiler.engines.python import tensorrt_version
from autotune.profiler.measure.timing import Runner

_MAX_COPIES = 16


class TensorRT(Backend):
    """Engines run in one process beside this one, which may be another Python's."""

    name = "tensorrt"
    prepare_limit_s = LIMIT_S
    ranks_per_shape = 8  # each is an engine to build
    packages = ("tensorrt",)
    dtypes = ("fp16", "fp32")
    device_kinds = ("cuda",)

    def builder_for(self, dtype: str) -> str:
        """Graphs at the opset that the parser of TensorRT reads."""
        del dtype
        return "engine-onnx"

    def missing(self) -> str | None:
        """What to install, or None."""
        return missing_parts()

    def versions(self) -> dict[str, str]:
        """Of the TensorRT that builds and runs."""
        found = tensorrt_version() if gpu_names() else None
        return {"tensorrt": found} if found else {}

    def settings(self) -> dict[str, str]:
        """The version of the NVIDIA driver."""
        from autotune.devices.health import driver_version

        return {"driver": driver_version()}

    def copies(self, shape: LayerShape) -> int:
        """As other GPU backends, but no more than an engine is built of in seconds."""
        return min(super().copies(shape), _MAX_COPIES)

    @functools.cached_property
    def _process(self) -> EngineProcess:
        return EngineProcess()

    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """An engine of several instances of the layer on one input."""
        import numpy as np

        from autotune.profiler.backends.onnx_layers import layer_model

        del threads
        copies = self.copies(shape)
        kind = np.float16 if shape.dtype == "fp16" else np.float32
        x = np.random.default_rng(1).standard_normal((shape.tokens, shape.in_features))
        feeds = {"x": x.astype(kind)}
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "layer.onnx"
            model.write_bytes(layer_model(shape, copies, opset=17))
            number = self._load(model, feeds, dtype=shape.dtype)
        return TimedLayer(run=self._runner(number), copies=copies)

    def network(
        self, artefact: Path, inputs: Path, *, threads: int, loader: NetworkLoader | None = None
    ) -> Runner:
        """An engine file, or the engine of an ONNX file for exactly these inputs."""
        del threads, loader
        feeds = load_inputs(inputs)
        if artefact.suffix == ".engine":
            return self._runner(self._process.load(artefact, feeds))
        kinds = {str(array.dtype) for array in feeds.values()}
        dtype = "fp16" if "float16" in kinds else _weights_dtype(artefact)
        return self._runner(self._load(artefact, feeds, dtype=dtype))

    def _load(self, model: Path, feeds: dict[str, Any], *, dtype: str) -> int:
        exact = {name: [list(array.shape)] * 3 for name, array in feeds.items()}
        with tempfile.TemporaryDirectory() as folder:
            engine = Path(folder) / "model.engine"
            build_engine(model, {"dtype": dtype, "profiles": [exact]}, output=engine)
            return self._process.load(engine, feeds)

    def _runner(self, number: int) -> Runner:
        return lambda: self._process.seconds(number)


def _weights_dtype(artefact: Path) -> str:
    import onnx

    model = onnx.load(artefact, load_external_data=False)
    half = sum(w.data_type == onnx.TensorProto.FLOAT16 for w in model.graph.initializer)
    return "fp16" if half else "fp32"
