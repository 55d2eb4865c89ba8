"""Layers and networks as PyTorch callables, on any of its devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from autotune.core.forms import PIVOTED, pivots_inputs
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
    layers = [_layer(shape, device) for _ in range(copies)]
    x = _normal(shape.tokens, shape.in_features, dtype=shape.dtype, device=device)

    def run() -> list[Tensor] | None:
        kept = []
        with torch.no_grad():
            for layer in layers:
                for output in layer(x):
                    if keeps_outputs:
                        kept.append(output)
                    del output
        return kept if keeps_outputs else None

    return run


def _layer(shape: LayerShape, device: str) -> Callable[[Tensor], Iterator[Tensor]]:
    """One instance of the layer; its outputs are made one after the other."""
    k, rank, pivoted = shape.in_features, shape.rank, shape.form.structure == PIVOTED
    chooses = pivoted and pivots_inputs(k, shape.out_features, shared=len(shape.widths) > 1)
    holds = pivoted and not chooses

    def weight(n: int, k: int) -> Tensor:
        values: Tensor = _normal(n, k, dtype=shape.dtype, device=device) / k**0.5
        return values

    down = weight(rank, k - rank if chooses else k) if rank else None
    ups = [weight(n - rank if holds else n, rank or k) for n in shape.widths]
    order = torch.randperm(k if chooses else shape.out_features, device=device)
    chosen, rest = order[:rank].sort().values, order[rank:].sort().values

    def run(x: Tensor) -> Iterator[Tensor]:
        latent = x
        if down is not None and chooses:
            latent = x.index_select(-1, chosen) + linear(x.index_select(-1, rest), down)
        elif down is not None:
            latent = linear(x, down)
        for up in ups:
            output = linear(latent, up)
            yield torch.cat([latent, output], -1).index_select(-1, order) if holds else output

    return run


def _normal(rows: int, columns: int, *, dtype: str, device: str) -> Tensor:
    values: Tensor = torch.randn(rows, columns, dtype=TORCH_DTYPES[dtype], device=device)
    return values


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
