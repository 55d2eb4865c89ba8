"""PyTorch through CUDA graphs: what the GPU itself takes, without the launches of eager mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autotune.core.layers import LayerShape
from autotune.profiler.backends.base import Backend, NetworkLoader, TimedLayer
from autotune.profiler.measure.timing import Runner

_WARMUP_PASSES = 3


class TorchCudaGraph(Backend):
    """A pass is captured once and replayed; CUDA events before and after it tell its seconds."""

    name = "torch-cudagraph"
    packages = ("torch", "transformers")
    dtypes = ("fp32", "fp16", "bf16")
    device_kinds = ("cuda",)

    def settings(self) -> dict[str, str]:
        """The versions of CUDA and of the NVIDIA driver."""
        from autotune.profiler.backends.torch_layers import cuda_settings

        return cuda_settings()

    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """One graph over copies enough to rotate past the cache."""
        from autotune.profiler.backends.torch_layers import layer_pass

        del threads
        copies = self.copies(shape)
        return TimedLayer(
            run=captured(layer_pass(shape, self.device, copies=copies)), copies=copies
        )

    def network(
        self, artefact: Path, inputs: Path, *, threads: int, loader: NetworkLoader | None = None
    ) -> Runner:
        """A checkpoint folder on fixed inputs."""
        from autotune.profiler.backends.torch_layers import network_pass

        del threads
        return captured(network_pass(artefact, inputs, loader=loader, device=self.device))


def captured(one_pass: Callable[[], object]) -> Runner:
    """`one_pass` as a CUDA graph, after the warm-up that lets libraries choose their kernels."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(_WARMUP_PASSES):
            one_pass()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one_pass()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run() -> float:
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    # The graph reads memory that only the pass keeps alive.
    run.__dict__["keep"] = one_pass
    return run
