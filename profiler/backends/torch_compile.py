"""PyTorch, compiled by Inductor for the shapes at hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from autotune.core.layers import LayerShape
from autotune.profiler.backends.torch_cudagraph import captured
from autotune.profiler.backends.torch_eager import TorchEager
from autotune.profiler.measure.timing import Runner

_MAX_COPIES = 8


class TorchCompile(TorchEager):
    """Compiled passes; on a GPU captured as CUDA graphs, as `mode="reduce-overhead"` does."""

    name = "torch-compile"
    # Inductor removes products whose result nobody reads, and would leave nothing to time.
    _needs_outputs = True

    def missing(self) -> str | None:
        """Inductor needs a compiler for CPUs, Triton for GPUs."""
        if self.device == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
            return "backend torch-compile needs a C++ compiler on a CPU: install g++"
        return super().missing()

    def settings(self) -> dict[str, str]:
        """As in eager mode; timings of products that were removed are of another kind."""
        return {**super().settings(), "outputs": "kept"}

    def copies(self, shape: LayerShape) -> int:
        """Few: a function of hundreds of products would compile for minutes."""
        return min(super().copies(shape), _MAX_COPIES)

    def _runner(self, one_pass: Callable[[], object]) -> Runner:
        import torch

        compiled: Callable[[], object] = torch.compile(one_pass, dynamic=False)
        return super()._runner(compiled) if self.device == "cpu" else captured(compiled)
