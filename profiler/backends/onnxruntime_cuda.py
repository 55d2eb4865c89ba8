"""onnxruntime on the CUDA execution provider."""

from __future__ import annotations

from autotune.profiler.backends.onnxruntime_cpu import OnnxRuntimeCpu


class OnnxRuntimeCuda(OnnxRuntimeCpu):
    """The graphs of onnxruntime-cpu; inputs and outputs stay on the GPU."""

    name = "onnxruntime-cuda"
    packages: tuple[str, ...] = ("onnxruntime-gpu", "onnx")
    dtypes = ("fp32", "fp16")
    device_kinds = ("cuda",)
    profiles_nodes = False
    provider = "CUDAExecutionProvider"

    def missing(self) -> str | None:
        """The GPU build of onnxruntime, and a GPU that it can open."""
        lacks = super().missing()
        if lacks is None:
            import onnxruntime

            if self.provider not in onnxruntime.get_available_providers():
                return "backend onnxruntime-cuda needs onnxruntime-gpu with CUDA libraries"
        return lacks
