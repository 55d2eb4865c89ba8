"""Backends by name; an implementation is imported when it is asked for."""

from __future__ import annotations

from autotune.core.errors import DeviceMissingError, UsageError
from autotune.core.registry import Registry
from autotune.profiler.backends.base import Backend, TimedLayer

__all__ = [
    "BACKENDS",
    "Backend",
    "TimedLayer",
    "make_backend",
    "needed_device",
    "require_backend",
]

BACKENDS = Registry(
    "backend",
    "autotune.backends",
    own={
        "onnxruntime-cpu": "autotune.profiler.backends.onnxruntime_cpu:OnnxRuntimeCpu",
        "openvino-cpu": "autotune.profiler.backends.openvino_cpu:OpenVinoCpu",
        "onnxruntime-cuda": "autotune.profiler.backends.onnxruntime_cuda:OnnxRuntimeCuda",
        "torch-eager": "autotune.profiler.backends.torch_eager:TorchEager",
        "torch-compile": "autotune.profiler.backends.torch_compile:TorchCompile",
        "torch-cudagraph": "autotune.profiler.backends.torch_cudagraph:TorchCudaGraph",
        "tensorrt": "autotune.profiler.backends.tensorrt:TensorRT",
    },
)
ALIASES = {
    "onnxruntime": "onnxruntime-cpu",
    "ort": "onnxruntime-cpu",
    "openvino": "openvino-cpu",
    "torch": "torch-eager",
}
_KINDS = {"cpu": "a CPU", "cuda": "an NVIDIA GPU"}


def make_backend(name: str, device_kind: str | None = None) -> Backend:
    """The backend `name` or alias for a kind of device, whether or not its parts are installed.

    Raises:
        UsageError: an unknown name (the known ones are listed).
    """
    full = ALIASES.get(name, name)
    if full not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}; known are {', '.join(BACKENDS)}")
    backend: Backend = BACKENDS.construct(full, device_kind)
    return backend


def needed_device(backend: Backend) -> str:
    """The kinds of device that a backend runs on, in words."""
    return " or ".join(_KINDS[kind] for kind in backend.device_kinds)


def require_backend(name: str, device_kind: str) -> Backend:
    """The backend `name`, installed and able to run on `device_kind`.

    Raises:
        UsageError: unknown, or made for another kind of device.
        DeviceMissingError: something it needs is not installed.
    """
    backend = make_backend(name, device_kind)
    if device_kind not in backend.device_kinds:
        raise UsageError(f"{backend.name} needs {needed_device(backend)}")
    missing = backend.missing()
    if missing:
        raise DeviceMissingError(missing)
    return backend
