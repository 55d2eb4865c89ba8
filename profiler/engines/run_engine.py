#!/usr/bin/env python3
"""Run TensorRT engines: a process that loads them and answers requests, one JSON line each.

    python run_engine.py < requests

Needs Python 3.10, tensorrt 8.5, NumPy and the CUDA runtime, nothing else: TensorRT may live in an
environment of its own, and a crash in it costs this process only. Requests: `{"load": engine,
"inputs": file.npz}` (answers its number), `{"time": number}` (seconds that the GPU took for one
pass, as a CUDA graph), `{"outputs": number, "file": file.npz}`. Whatever fails is `{"error": …}`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import site
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

_WARMUP_PASSES = 3
# TensorRT 8's own table needs a NumPy before 1.24.
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_TO_DEVICE, _TO_HOST = 1, 2
_CAPTURE_RELAXED = 2


class CudaError(RuntimeError):
    """A call of the CUDA runtime failed."""


class CudaRuntime:
    """Memory, stream, graph and events on the current device. Sizes in bytes, times in seconds.

    Raises:
        CudaError: no runtime library is found, or a call fails.
    """

    def __init__(self) -> None:
        self._library = _open()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def allocate(self, size: int) -> int:
        """Device memory, for as long as the process lives."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        return int(pointer.value or 0)

    def copy_in(self, pointer: int, array: Any) -> None:
        """A contiguous NumPy array to the device."""
        self._copy(pointer, array.ctypes.data, size=array.nbytes, kind=_TO_DEVICE)

    def copy_out(self, array: Any, pointer: int) -> None:
        """From the device into a contiguous NumPy array."""
        self._copy(array.ctypes.data, pointer, size=array.nbytes, kind=_TO_HOST)

    def _copy(self, target: int, source: int, *, size: int, kind: int) -> None:
        self._call(
            "cudaMemcpy",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(kind),
        )

    def stream(self) -> int:
        """The handle of a new CUDA stream."""
        return self._handle("cudaStreamCreate")

    def event(self) -> int:
        """The handle of a new CUDA event."""
        return self._handle("cudaEventCreate")

    def _handle(self, create: str) -> int:
        handle = ctypes.c_void_p()
        self._call(create, ctypes.byref(handle))
        return int(handle.value or 0)

    def synchronize(self, stream: int) -> None:
        """Wait until the stream's work is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        """What is put on the stream from now on goes into a graph."""
        mode = ctypes.c_int(_CAPTURE_RELAXED)
        self._call("cudaStreamBeginCapture", ctypes.c_void_p(stream), mode)

    def end_capture(self, stream: int) -> int:
        """The graph, ready to be launched."""
        graph, runnable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        self._call(
            "cudaGraphInstantiateWithFlags", ctypes.byref(runnable), graph, ctypes.c_ulonglong(0)
        )
        return int(runnable.value or 0)

    def timed_launch(self, graph: int, stream: int, *, start: int, end: int) -> float:
        """Seconds that the device took for the graph."""
        self._call("cudaEventRecord", ctypes.c_void_p(start), ctypes.c_void_p(stream))
        self._call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))
        self._call("cudaEventRecord", ctypes.c_void_p(end), ctypes.c_void_p(stream))
        self._call("cudaEventSynchronize", ctypes.c_void_p(end))
        milliseconds = ctypes.c_float()
        self._call(
            "cudaEventElapsedTime",
            ctypes.byref(milliseconds),
            ctypes.c_void_p(start),
            ctypes.c_void_p(end),
        )
        return milliseconds.value * 1e-3

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            said = self._library.cudaGetErrorString(code).decode()
            raise CudaError(f"{name} failed: {said} ({code})")


def _open() -> Any:
    """The runtime of the system, of a CUDA toolkit, or of the wheels that PyTorch installs."""
    found = ctypes.util.find_library("cudart")
    packages = [Path(folder) / "nvidia" for folder in site.getsitepackages()]
    wheels = [str(path) for folder in packages for path in folder.glob("*/lib/libcudart.so.*")]
    toolkit = [str(path) for path in Path("/usr/local").glob("cuda*/lib64/libcudart.so.*")]
    for name in (found, *_NAMES, *wheels, *toolkit):
        if name:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
    raise CudaError(
        "no libcudart is found here; install nvidia-cuda-runtime, or put the toolkit's library "
        "folder into LD_LIBRARY_PATH"
    )


class EngineRefusedError(RuntimeError):
    """An engine does not load, run, or take these inputs."""


class Engine:
    """A file's engine with device memory for fixed inputs.

    `feeds`: input name → array; the first optimisation profile that admits their shapes is used.

    Raises:
        EngineRefusedError: it was built by another TensorRT or for another GPU, is no engine, or no
            profile admits the shapes.
    """

    def __init__(self, path: Path, feeds: Mapping[str, Any]) -> None:
        self._cuda = CudaRuntime()
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineRefusedError(
                f"{path} does not load in TensorRT {trt.__version__} on this GPU: an engine is "
                "bound to both; export it again here"
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._inputs = [name for name in names if self._is(name, "INPUT")]
        self._outputs = [name for name in names if self._is(name, "OUTPUT")]
        self._stream = self._cuda.stream()
        self._context = self._engine.create_execution_context()
        self._memory: dict[str, int] = {}
        self._arrays: dict[str, Any] = {}
        self._bind(path, self._typed(path, feeds))

    def _is(self, name: str, mode: str) -> bool:
        found = self._engine.get_tensor_mode(name)
        return bool(found == getattr(trt.TensorIOMode, mode))

    def _typed(self, path: Path, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs in the engine's own types: TensorRT 8 takes 64-bit ids as 32-bit ones."""
        missing = sorted(set(self._inputs) - set(feeds))
        if missing:
            raise EngineRefusedError(f"{path} needs the input {missing[0]!r}")
        return {
            name: np.ascontiguousarray(feeds[name], dtype=self._numpy_type(name))
            for name in self._inputs
        }

    def _numpy_type(self, name: str) -> Any:
        kind = str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]
        if kind not in _NUMPY:
            raise EngineRefusedError(f"{name} is in {kind}, which NumPy does not have")
        return np.dtype(_NUMPY[kind])

    def _bind(self, path: Path, feeds: Mapping[str, Any]) -> None:
        for profile in range(self._engine.num_optimization_profiles):
            if self._admits(profile, feeds):
                break
        else:
            shapes = {name: array.shape for name, array in feeds.items()}
            raise EngineRefusedError(f"no optimisation profile of {path} admits {shapes}")
        self._context.set_optimization_profile_async(profile, self._stream)
        self._cuda.synchronize(self._stream)
        for name, array in feeds.items():
            self._context.set_input_shape(name, array.shape)
            self._place(name, array)
            self._cuda.copy_in(self._memory[name], array)
        for name in self._outputs:
            shape = _sizes(self._context.get_tensor_shape(name))
            self._place(name, np.empty(shape, dtype=self._numpy_type(name)))

    def _place(self, name: str, array: Any) -> None:
        self._arrays[name] = array
        self._memory[name] = self._cuda.allocate(array.nbytes)
        self._context.set_tensor_address(name, self._memory[name])

    def _admits(self, profile: int, feeds: Mapping[str, Any]) -> bool:
        for name, array in feeds.items():
            least, _, most = self._engine.get_tensor_profile_shape(name, profile)
            within = zip(_sizes(least), array.shape, _sizes(most), strict=True)
            if not all(low <= size <= high for low, size, high in within):
                return False
        return True

    def run(self) -> None:
        """One pass, on the engine's stream."""
        if not self._context.execute_async_v3(self._stream):
            raise EngineRefusedError("TensorRT refused to run the engine")

    def outputs(self) -> dict[str, Any]:
        """The arrays that one pass makes."""
        self.run()
        self._cuda.synchronize(self._stream)
        for name in self._outputs:
            self._cuda.copy_out(self._arrays[name], self._memory[name])
        return {name: self._arrays[name].copy() for name in self._outputs}

    def captured(self) -> Callable[[], float]:
        """A pass as a CUDA graph; calling it gives the seconds that the GPU itself took."""
        for _ in range(_WARMUP_PASSES):
            self.run()
        self._cuda.synchronize(self._stream)
        self._cuda.begin_capture(self._stream)
        self.run()
        graph = self._cuda.end_capture(self._stream)
        start, end = self._cuda.event(), self._cuda.event()

        def run() -> float:
            return self._cuda.timed_launch(graph, self._stream, start=start, end=end)

        # The graph works in memory that the engine keeps alive.
        run.__dict__["keep"] = self
        return run


def _sizes(dims: Any) -> tuple[int, ...]:
    """TensorRT's Dims as a tuple."""
    return tuple(dims)


class Server:
    """The engines that one process holds."""

    def __init__(self) -> None:
        self._engines: list[Engine] = []
        self._graphs: dict[int, Callable[[], float]] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What one request asks for."""
        if "load" in request:
            with np.load(request["inputs"]) as arrays:
                self._engines.append(Engine(Path(request["load"]), dict(arrays)))
            return {"number": len(self._engines) - 1}
        if "time" in request:
            number = request["time"]
            if number not in self._graphs:
                self._graphs[number] = self._engines[number].captured()
            return {"seconds": self._graphs[number]()}
        np.savez(request["file"], **self._engines[request["outputs"]].outputs())
        return {"file": request["file"]}


def main() -> None:
    """Serve until the end of input."""
    # TensorRT's own logger writes to descriptor 1, which must carry answers alone.
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server()
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:  # told to the other side
            answer = {"error": f"{type(error).__name__}: {error}"}
        protocol.write(json.dumps(answer) + "\n")
        protocol.flush()


if __name__ == "__main__":
    main()
