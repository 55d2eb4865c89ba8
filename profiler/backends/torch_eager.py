"""PyTorch, eager mode: what `model(**inputs)` takes, launches included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autotune.core.layers import LayerShape
from autotune.profiler.backends.base import Backend, NetworkLoader, TimedLayer
from autotune.profiler.measure.timing import Runner


class TorchEager(Backend):
    """Layers as matrix products, networks as transformers checkpoints."""

    name = "torch-eager"
    packages = ("torch", "transformers")
    dtypes = ("fp32", "fp16", "bf16")
    device_kinds = ("cpu", "cuda")
    _needs_outputs = False

    def settings(self) -> dict[str, str]:
        """The versions of CUDA and of the driver; nothing on a CPU."""
        if self.device == "cpu":
            return {}
        from autotune.profiler.backends.torch_layers import cuda_settings

        return cuda_settings()

    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """The layer in several copies that run in turn, so that caches do not keep weights."""
        import torch

        from autotune.profiler.backends.torch_layers import layer_pass

        torch.set_num_threads(threads)
        copies = self.copies(shape)
        one_pass = layer_pass(shape, self.device, copies=copies, keeps_outputs=self._needs_outputs)
        return TimedLayer(run=self._runner(one_pass), copies=copies)

    def network(
        self, artefact: Path, inputs: Path, *, threads: int, loader: NetworkLoader | None = None
    ) -> Runner:
        """A checkpoint folder, opened by `loader`."""
        import torch

        from autotune.profiler.backends.torch_layers import network_pass

        torch.set_num_threads(threads)
        one_pass = network_pass(
            artefact, inputs, loader=loader, device=self.device, keeps_outputs=self._needs_outputs
        )
        return self._runner(one_pass)

    def _runner(self, one_pass: Callable[[], object]) -> Runner:
        """Calls return before a GPU is done; a runner does not."""
        import torch

        on_gpu = self.device != "cpu"

        def run() -> None:
            one_pass()
            if on_gpu:
                torch.cuda.synchronize()

        return run
