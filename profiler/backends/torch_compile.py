"""PyTorch, compiled by Inductor for the shapes at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

from autotune.profiler.backends.base import TimedLayer
from autotune.profiler.backends.torch_cudagraph import captured
from autotune.profiler.backends.torch_eager import TorchEager
from autotune.profiler.timing import Runner
from autotune.types import LayerShape


class TorchCompile(TorchEager):
    """Compiled passes; on a GPU captured as CUDA graphs, as `mode="reduce-overhead"` does."""

    name = "torch-compile"

    def missing(self) -> str | None:
        """Inductor needs a compiler for CPUs, Triton for GPUs."""
        if self.device == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
            return "backend torch-compile needs a C++ compiler on a CPU: install g++"
        return super().missing()

    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """Copies used in turn, in one compiled function."""
        import torch

        from autotune.profiler.backends.torch_layers import layer_pass

        torch.set_num_threads(threads)
        # A function of hundreds of products would compile for minutes.
        copies = min(self.copies(shape), 8)
        return TimedLayer(run=self._compiled(layer_pass(shape, self.device, copies)), copies=copies)

    def network(
        self, artefact: Path, inputs: Path, threads: int, loader: str | None = None
    ) -> Runner:
        """A checkpoint folder, compiled as a whole."""
        import torch

        from autotune.profiler.backends.torch_layers import network_pass

        torch.set_num_threads(threads)
        return self._compiled(network_pass(artefact, inputs, loader, self.device))

    def _compiled(self, one_pass: Runner) -> Runner:
        import torch

        compiled: Runner = torch.compile(one_pass, dynamic=False)
        return compiled if self.device == "cpu" else captured(compiled)
