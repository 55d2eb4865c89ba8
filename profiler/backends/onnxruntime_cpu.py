"""onnxruntime on the CPU execution provider."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotune.core.errors import ModelError
from autotune.core.forms import (
    INT4_WEIGHT_ONLY,
    INT8_DYNAMIC,
    INT8_STATIC,
    INT8_WEIGHT_ONLY,
    PLAIN,
    Form,
)
from autotune.core.layers import LayerShape
from autotune.profiler.backends.base import (
    Backend,
    NetworkLoader,
    TimedLayer,
    load_inputs,
    typical_latencies,
)
from autotune.profiler.backends.onnx_layers import NUMPY_DTYPES, layer_model
from autotune.profiler.measure.timing import Runner

# Softmax under a causal mask produces denormals, which made attention 2x slower (measured:
# 11.9 ms against 5.3 ms for 1 x 512 tokens, 8 heads of 64); both models get the same option.
# Idle thread pools spin: with five sessions in one process on two cores each call took 3-10x as
# long (12 ms quanta) until they were told to stop when their run ends.
_DENORMALS = "session.set_denormal_as_zero"
SESSION_CONFIG = {_DENORMALS: "1", "session.force_spinning_stop": "1"}

_INTEGERS = (INT8_STATIC, INT8_DYNAMIC)
_BLOCKS = (INT8_WEIGHT_ONLY, INT4_WEIGHT_ONLY)


def session_options(
    threads: int, processors: Sequence[int] = (), *, config: Mapping[str, str] = SESSION_CONFIG
) -> Any:
    """Options of a session; `processors` are for all threads but the first."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    if processors:
        numbered_from_1 = ";".join(str(processor + 1) for processor in processors)
        options.add_session_config_entry("session.intra_op_thread_affinities", numbered_from_1)
    return options


def open_session(
    model: Path | bytes,
    threads: int,
    *,
    provider: str = "CPUExecutionProvider",
    processors: Sequence[int] = (),
) -> Any:
    """An InferenceSession on one provider."""
    import onnxruntime

    source = str(model) if isinstance(model, Path) else model
    options = session_options(threads, processors)
    return onnxruntime.InferenceSession(source, options, providers=[provider])


def open_model(path: Path, threads: int) -> Any:
    """A session over a file that somebody may have changed, in the process of the caller.

    It leaves denormals as they are: onnxruntime would flush them to zero for the whole thread, in
    what else the caller computes as well.

    Raises:
        ModelError: onnxruntime refuses it (no model, external data missing or outside its folder).
    """
    import onnxruntime

    config = {key: value for key, value in SESSION_CONFIG.items() if key != _DENORMALS}
    options = session_options(threads, config=config)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises types of its own, by what is wrong
        raise ModelError(f"onnxruntime cannot open {path}: {error}") from error


class OnnxRuntimeCpu(Backend):
    """Layers and networks as ONNX graphs; inputs and outputs are bound once."""

    name = "onnxruntime-cpu"
    packages: tuple[str, ...] = ("onnxruntime", "onnx")
    dtypes: tuple[str, ...] = ("fp32",)
    device_kinds = ("cpu",)
    profiles_nodes = True
    opens_onnx = True
    provider = "CPUExecutionProvider"
    _processors: tuple[int, ...] = ()

    def builder_for(self, dtype: str) -> str:
        """The dense graph is rewritten in fp32, and traced anew in another dtype."""
        return "onnx" if dtype == "fp32" else "typed-onnx"

    def pin(self, threads: int) -> None:
        """The first thread to the first processor, those that sessions start to the others.

        Two threads that a busy neighbour drove onto one processor stay there for seconds, and each
        session has threads of its own: one alternative is then slowed three times, the other not.
        """
        available = sorted(os.sched_getaffinity(0))
        if 1 < threads == len(available):
            os.sched_setaffinity(0, available[:1])
            self._processors = tuple(available[1:])

    def implements(self, form: Form) -> bool:
        """Plain and pivoted pairs; plain ones of integers.

        Products of weights in blocks are exact on every processor, as a test of it shows.
        """
        if form.precision in _BLOCKS:
            return form.structure == PLAIN and self.device == "cpu"
        if form.precision in _INTEGERS:
            return form.structure == PLAIN and self.runs_int8()
        return super().implements(form)

    def settings(self) -> dict[str, str]:
        """The session's options, which a fingerprint records."""
        return dict(SESSION_CONFIG)

    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """A session over a graph of this one layer."""
        copies = self.copies(shape)
        model = layer_model(shape, copies)
        session = open_session(model, threads, provider=self.provider, processors=self._processors)
        rng = np.random.default_rng(1)
        size, dtype = (shape.tokens, shape.in_features), NUMPY_DTYPES[shape.dtype]
        feeds = {
            each.name: rng.standard_normal(size, dtype=np.float32).astype(dtype)
            for each in session.get_inputs()
        }
        outputs = [(shape.tokens, width) for width in shape.widths] * copies
        return TimedLayer(
            run=_bound(session, feeds, shapes=outputs, device=self.device), copies=copies
        )

    def network(
        self, artefact: Path, inputs: Path, *, threads: int, loader: NetworkLoader | None = None
    ) -> Runner:
        """A session over the exported model; outputs are reused between runs."""
        del loader
        session = open_session(
            artefact, threads, provider=self.provider, processors=self._processors
        )
        feeds = load_inputs(inputs)
        shapes = [result.shape for result in session.run(None, feeds)]
        return _bound(session, feeds, shapes=shapes, device=self.device)

    def node_latencies(
        self, artefact: Path, inputs: Path, *, threads: int, again: Callable[[], bool]
    ) -> dict[str, float]:
        """From onnxruntime's own profile."""
        import onnxruntime

        feeds = load_inputs(inputs)
        with tempfile.TemporaryDirectory() as folder:
            options = session_options(threads)
            options.enable_profiling = True
            options.profile_file_prefix = f"{folder}/profile"
            session = onnxruntime.InferenceSession(
                str(artefact), options, providers=[self.provider]
            )
            while again():
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text())
        durations: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                durations[event["name"].removesuffix("_kernel_time")].append(event["dur"] * 1e-6)
        return typical_latencies(durations)


def _bound(
    session: Any, feeds: dict[str, Any], *, shapes: Sequence[tuple[int, ...]], device: str
) -> Runner:
    import onnxruntime

    binding = session.io_binding()
    keep = []
    for name, array in feeds.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device)
        binding.bind_ortvalue_input(name, value)
        keep.append(value)
    for output, shape in zip(session.get_outputs(), shapes, strict=True):
        dtype = np.float16 if output.type == "tensor(float16)" else np.float32
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, device)
        binding.bind_ortvalue_output(output.name, value)
        keep.append(value)

    def run() -> None:
        session.run_with_iobinding(binding)

    run.__dict__["keep"] = keep
    return run
