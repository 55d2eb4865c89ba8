"""PyTorch, eager mode, on the CPU."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from autotune.profiler.backends.base import Backend, TimedLayer, copy_count
from autotune.profiler.timing import Runner
from autotune.types import LayerShape


class TorchEager(Backend):
    """Layers as matrix products, networks as transformers checkpoints."""

    name = "torch-eager"
    packages = ("torch", "transformers")
    dtypes = ("fp32", "bf16")
    device_kinds = ("cpu",)

    def layer(self, shape: LayerShape, threads: int) -> TimedLayer:
        """`copies` weights used in turn."""
        import torch
        from torch.nn.functional import linear

        torch.set_num_threads(threads)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[shape.dtype]
        k, rank = shape.in_features, shape.rank
        copies = copy_count(shape, dtype.itemsize)

        def weight(n: int, k: int) -> torch.Tensor:
            scaled: torch.Tensor = torch.randn(n, k, dtype=dtype) / k**0.5
            return scaled

        chains = [
            (
                None if rank is None else weight(rank, k),
                [weight(n, rank or k) for n in shape.widths],
            )
            for _ in range(copies)
        ]
        x = torch.randn(shape.tokens, k, dtype=dtype)

        def run() -> None:
            with torch.inference_mode():
                for down, ups in chains:
                    latent = x if down is None else linear(x, down)
                    for up in ups:
                        linear(latent, up)

        return TimedLayer(run=run, copies=copies)

    def network(
        self, artefact: Path, inputs: Path, threads: int, loader: str | None = None
    ) -> Runner:
        """A checkpoint folder, opened by `loader` as a callable on the named inputs."""
        import torch
        from safetensors.torch import load_file

        if loader is None:
            raise ValueError("the torch-eager backend needs a loader for networks")
        torch.set_num_threads(threads)
        module, _, function = loader.partition(":")
        model = getattr(import_module(module), function)(artefact)
        feeds = load_file(inputs)

        def run() -> None:
            with torch.inference_mode():
                model(**feeds)

        return run
