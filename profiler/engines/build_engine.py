#!/usr/bin/env python3
"""Build a TensorRT engine from an ONNX file.

    python build_engine.py build.json [--output model.engine]

Needs Python 3.9 and tensorrt 8.5 or newer, nothing else; it travels in build kits as it is.
`build.json`: `onnx` (path, from its folder), `dtype` (fp32, fp16 or bf16: of the ONNX), `profiles`
(a list of input name → [least, usual, most] shapes), and optionally `integers` (whether it rounds
to 8 bits somewhere), `timing_cache` (path), `optimization_level` and `workspace_bytes`.

The last line of stdout is one JSON document: version, layers, and how many tensors have which type;
or `{"error": …}` when the build failed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import tensorrt as trt

_TYPES = {
    "fp32": ("fp32", "float"),
    "fp16": ("fp16", "half"),
    "bf16": ("bf16", "bfloat16"),
    "int8": ("int8",),
    "int32": ("int32",),
    "int64": ("int64",),
    "bool": ("bool",),
}


def build(task: dict[str, Any], folder: Path, *, output: Path) -> dict[str, Any]:
    """Parse, build, write `output` whole, and look into what was built.

    Raises:
        RuntimeError: the parser or the builder refused, with its own words.
    """
    started = time.monotonic()
    logger = _Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags())
    parser = trt.OnnxParser(network, logger)
    _say("parse")
    if not parser.parse_from_file(str(folder / task["onnx"])):
        said = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise RuntimeError(f"TensorRT {trt.__version__} cannot parse {task['onnx']}: {said}")
    config = _config(builder, task)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    sizes = {each.name: _sizes(each.shape) for each in inputs}
    for shapes in task["profiles"]:
        _check_profile(sizes, shapes)
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in shapes.items():
            profile.set_shape(name, least, usual, most)
        config.add_optimization_profile(profile)
    cache = _timing_cache(config, task, folder=folder)
    _say("build")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"TensorRT {trt.__version__} built no engine: {logger.last}")
    blob = bytes(cast(Any, engine))  # it has Python's buffer protocol
    if cache is not None:
        write_whole(cache, bytes(cast(Any, config.get_timing_cache().serialize())))
    write_whole(output, blob)
    _say("inspect")
    return {
        "tensorrt": str(trt.__version__),
        "engine_bytes": len(blob),
        "seconds": time.monotonic() - started,
        **inspect_engine(blob, logger, shapes=task["profiles"][0]),
    }


def _sizes(dims: Any) -> tuple[int, ...]:
    """TensorRT's Dims; free sizes are below zero."""
    return tuple(int(dims[i]) for i in range(len(dims)))


def _check_profile(sizes: dict[str, tuple[int, ...]], shapes: dict[str, Any]) -> None:
    """What TensorRT 8 answers with an assertion of its own: sizes that the graph has fixed."""
    for name, (least, _, most) in shapes.items():
        if name not in sizes:
            raise RuntimeError(f"the graph has no input {name!r}; it has {', '.join(sizes)}")
        for fixed, low, high in zip(sizes[name], least, most):  # noqa: B905 (3.9)
            if fixed >= 0 and not low == high == fixed:
                raise RuntimeError(
                    f"{name} has {sizes[name]} in the graph, and a profile asks for {least} to "
                    f"{most}; export it with that size free"
                )


def network_flags() -> int:
    """Strong typing where it exists (10 on); 8 wants its batch named, 11 knows no flags."""
    flags = 0
    major = int(str(trt.__version__).split(".")[0])
    known = trt.NetworkDefinitionCreationFlag
    if major < 10:
        flags |= 1 << int(getattr(known, "EXPLICIT_BATCH"))  # noqa: B009 (11 has it no more)
    elif hasattr(known, "STRONGLY_TYPED"):
        flags |= 1 << int(known.STRONGLY_TYPED)
    return flags


def _config(builder: Any, task: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if task.get("workspace_bytes"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, task["workspace_bytes"])
    # Without strong typing the builder may choose; the flag of the ONNX's own type lets it keep it.
    if int(str(trt.__version__).split(".")[0]) < 10:
        weak = [{"fp16": "FP16", "bf16": "BF16"}.get(task["dtype"])]
        weak += ["INT8"] if task.get("integers") else []
        for flag in filter(None, weak):
            config.set_flag(getattr(trt.BuilderFlag, flag))
        if not _has_math_libraries():
            config.set_tactic_sources(0)
    if task.get("optimization_level") is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = task["optimization_level"]
    return config


def _has_math_libraries() -> bool:
    """Whether cuBLAS and cuDNN, which TensorRT 8 also takes kernels from, are really here."""
    wanted = {"libcublas.so.11": "cublasGetVersion_v2", "libcudnn.so.8": "cudnnGetVersion"}
    try:
        return all(hasattr(ctypes.CDLL(name), symbol) for name, symbol in wanted.items())
    except OSError:
        return False


def _timing_cache(config: Any, task: dict[str, Any], *, folder: Path) -> Any:
    """What earlier builds on this device learned of kernels; where to write it afterwards."""
    if not task.get("timing_cache"):
        return None
    path = folder / task["timing_cache"]
    known = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return path


def inspect_engine(blob: bytes, logger: Any, *, shapes: dict[str, Any]) -> dict[str, Any]:
    """Layers and the types of the tensors that they make, of an engine loaded again.

    `shapes`: its first profile; with free sizes, TensorRT tells no type before they are set.

    Raises:
        RuntimeError: it does not load.
    """
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(blob)
    if engine is None:
        raise RuntimeError("the engine that was built does not load again")
    context = engine.create_execution_context()
    for name, (_, usual, _) in shapes.items():
        context.set_input_shape(name, usual)
    context.infer_shapes()
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    found = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    del inspector, context  # before the engine that made them
    layers = found["Layers"] if isinstance(found, dict) else found
    types: Counter[str] = Counter()
    for layer in layers:
        for tensor in layer.get("Outputs", ()) if isinstance(layer, dict) else ():
            types[_type_name(str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))))] += 1
    return {"layers": len(layers), "output_types": dict(types)}


def _type_name(text: str) -> str:
    words = re.split(r"[^a-z0-9]+", text.lower())
    return next((name for name, marks in _TYPES.items() if set(marks) & set(words)), text)


def write_whole(path: Path, data: bytes) -> None:
    """Under a temporary name first, flushed, then renamed: no reader meets half a file."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Logger(trt.ILogger):  # type: ignore[misc]
    """Warnings and errors to stderr; the last error is kept."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.last = "no reason given"

    def log(self, severity: Any, msg: str) -> None:
        """Keep the last error that TensorRT reports."""
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
            self.last = msg
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
            sys.stderr.write(f"{msg}\n")


def _say(phase: str) -> None:
    sys.stdout.write(json.dumps({"phase": phase}) + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """Be killed when the program that waits for the engine ends (Linux); alone, go on."""
    parent = os.environ.get("AUTOTUNE_PARENT_PID")
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG of linux/prctl.h
        if os.getppid() != int(parent):
            sys.exit("the program that started this one has ended")


def main() -> None:
    """Build the engine that build.json describes."""
    end_with_parent()
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("task", type=Path, help="build.json")
    options.add_argument("--output", type=Path, help="default: beside build.json")
    chosen = options.parse_args()
    task = json.loads(chosen.task.read_text())
    output = chosen.output or chosen.task.parent / "model.engine"
    try:
        facts = build(task, chosen.task.parent, output=output)
    except (RuntimeError, OSError) as error:
        text = f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps({"error": text}) + "\n")
        sys.exit(text)
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
