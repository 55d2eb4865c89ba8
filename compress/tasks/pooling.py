"""From hidden states to one vector a sequence, as sentence-transformers computes it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autotune.compress.sentence import read_head_config
from autotune.core.errors import ModelError

_ACTIVATIONS = {
    kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU)
}


def pool(hidden: Tensor, mask: Tensor, *, modes: tuple[str, ...], prompt_tokens: int = 0) -> Tensor:
    """The results of `modes` side by side, (batch, modes · features).

    Args:
        hidden: Hidden states (batch, sequence, features).
        mask: 1 for tokens, 0 for padding on either side, (batch, sequence).
        modes: Some of `autotune.compress.sentence.POOLING_MODES`.
        prompt_tokens: Tokens at the start of every sequence that are left out.
    """
    positions = mask.cumsum(1) * mask  # 1 for the first token that is no padding
    kept = mask * (positions > prompt_tokens)
    return torch.cat(
        [_pooled(hidden, kept, positions=positions, mode=mode) for mode in modes], dim=-1
    )


def _pooled(hidden: Tensor, kept: Tensor, *, positions: Tensor, mode: str) -> Tensor:
    if mode in ("cls", "lasttoken"):
        last = kept.shape[1] - 1
        index = kept.argmax(1) if mode == "cls" else last - kept.flip(1).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), index]
    weights = kept.unsqueeze(-1).to(hidden.dtype)
    if mode == "max":
        return hidden.masked_fill(weights == 0, -torch.inf).amax(1)
    if mode == "weightedmean":
        weights = weights * positions.unsqueeze(-1).to(hidden.dtype)
    total = weights.sum(1).clamp_min(1e-9)
    if mode == "mean_sqrt_len_tokens":
        total = total.sqrt()
    return (hidden * weights).sum(1) / total


class Head(nn.Module):
    """A dense layer behind the pooling: `activation(x Wᵀ + b)`, with a residual where there is one.

    Raises:
        ModelError: weights that are missing, not finite or of another shape, or an activation that
            is not supported.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = read_head_config(folder)
        name = str(config.get("activation_function", "Tanh") or "Identity").rpartition(".")[2]
        places = {config.get(f"module_{end}put_name") for end in ("in", "out")}
        if not places <= {None, "sentence_embedding"}:
            raise ModelError(f"{folder} is a dense layer that is not on the sentence's embedding")
        if name not in _ACTIVATIONS:
            raise ModelError(
                f"{folder} has the activation {name}; supported are {', '.join(_ACTIVATIONS)}"
            )
        self.activation = _ACTIVATIONS[name]()
        tensors = _weights(folder)
        self.weight = tensors["linear.weight"]
        self.bias = tensors.get("linear.bias")
        self.residual: Tensor | None = None
        self.adds_input = bool(config.get("use_residual"))
        if self.adds_input:
            self.residual = tensors.get("residual.weight")

    def forward(self, pooled: Tensor) -> Tensor:
        """The embedding (batch, out features) of the pooled vectors (batch, in features)."""
        pooled = pooled.to(self.weight.dtype)
        weight, device = self.weight.to(pooled.device), pooled.device
        bias = None if self.bias is None else self.bias.to(device)
        found: Tensor = self.activation(nn.functional.linear(pooled, weight, bias))
        if self.adds_input:
            carried = pooled if self.residual is None else pooled @ self.residual.to(device).T
            found = found + carried
        return found


def _weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder} has no readable model.safetensors ({error}); only safetensors weights are "
            "read (save the model again with sentence-transformers)"
        ) from error
    if "linear.weight" not in tensors:
        raise ModelError(f"{path} lacks linear.weight")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"tensor {name!r} in {path} holds NaN or infinite values")
    return tensors
