"""Layers and networks as PyTorch callables, on any of its devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from autotune.core.layers import LayerShape
from autotune.devices.health import driver_version
from autotune.devices.specs import TORCH_NAMES
from autotune.profiler.backends.base import NetworkLoader

Pass = Callable[[], Any]
TORCH_DTYPES: dict[str, torch.dtype] = {
    key: getattr(torch, name) for key, name in TORCH_NAMES.items()
}


def cuda_settings() -> dict[str, str]:
    """What of the GPU's software changes latency: PyTorch's CUDA and the driver."""
    driver = driver_version() if torch.cuda.is_available() else ""
    return {"cuda": str(torch.version.cuda), "driver": driver}


def layer_pass(shape: LayerShape, device: str, *, copies: int, keeps_outputs: bool = False) -> Pass:
    """One pass over `copies` instances of the layer, with weights of their own, on one input.

    It returns the outputs if it `keeps_outputs`: a compiler drops what nobody reads. Otherwise it
    returns None, and each output is freed before the next is computed, as in a network.
    """
    dtype, k, rank = TORCH_DTYPES[shape.dtype], shape.in_features, shape.rank

    def weight(n: int, k: int) -> Tensor:
        values: Tensor = torch.randn(n, k, dtype=dtype, device=device) / k**0.5
        return values

    chains = [
        (
            weight(rank, k) if rank else None,
            [weight(n, rank or k) for n in shape.widths],
        )
        for _ in range(copies)
    ]
    x = torch.randn(shape.tokens, k, dtype=dtype, device=device)

    def run() -> list[Tensor] | None:
        kept = []
        with torch.no_grad():
            for down, ups in chains:
                latent = x if down is None else linear(x, down)
                for up in ups:
                    output = linear(latent, up)
                    if keeps_outputs:
                        kept.append(output)
                    del output
        return kept if keeps_outputs else None

    return run


def network_pass(
    artefact: Path,
    inputs: Path,
    *,
    loader: NetworkLoader | None,
    device: str,
    keeps_outputs: bool = False,
) -> Pass:
    """One pass of the model that `loader` opens on `device`.

    It returns the model's output if it `keeps_outputs`, as `layer_pass`.
    """
    if loader is None:
        raise ValueError(
            "a torch backend needs a loader for networks; run them in "
            "autotune.farm.measuring_process, which has one"
        )
    one_pass = loader(artefact, inputs, device=device).run

    def run() -> object:
        with torch.no_grad():
            output = one_pass()
        return output if keeps_outputs else None

    return run
