"""Dobi's weight update: project the outputs on their common subspace (Dobi-SVD, §3.3).

W_f = V Vᵀ W, V the top eigenvectors of Σ_i V_i V_iᵀ, V_i the top-k right singular vectors of sample
i's output A_i = X_i W. The published code runs an incremental PCA that centres, so its result
depends on the arbitrary signs of singular vectors; a projector V_i V_iᵀ has no sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from autotune.compress.factorizers.base import Factorizer, Layer
from autotune.compress.tasks.base import MASK, Batch, Task


class OutputSubspace(Factorizer):
    """Up V (N, k), down Vᵀ W (k, K)."""

    name = "output-subspace"
    needs_output_basis = True

    def factors(self, layer: Layer, rank: int) -> tuple[Tensor, Tensor]:
        """Up (N, r): the top r output directions V. Down (r, K): Vᵀ W."""
        assert layer.output_basis is not None
        basis = layer.output_basis[:, :rank].to(layer.weight)
        return basis, basis.T @ layer.weight


def top_directions(sample: Tensor, rank: int) -> Tensor:
    """Top right singular vectors (N, ≤ rank) of a sample (tokens, N).

    Directions of no output carry no information, so there are fewer when tokens are fewer than
    `rank`. The eigenvectors of the smaller Gram are several times as fast as an SVD.
    """
    tokens, n = sample.shape
    if n <= tokens:
        values, vectors = torch.linalg.eigh(sample.T @ sample)
    else:
        values, left = torch.linalg.eigh(sample @ sample.T)
        vectors = sample.T @ left
        vectors = vectors / torch.linalg.norm(vectors, dim=0).clamp_min(1e-300)
    seen = int((values > values[-1] * 1e-14).sum())
    top: Tensor = vectors.flip(1)[:, : min(rank, seen)]
    return top


def merge_bases(projector: Tensor, rank: int) -> Tensor:
    """Top `rank` eigenvectors (N, r) of a sum of projectors (N, N), the largest first."""
    _, vectors = torch.linalg.eigh(projector)
    top: Tensor = vectors.flip(1)[:, :rank]
    return top


class _Projectors:
    """Adds V_i V_iᵀ of every sequence that passes."""

    def __init__(self, model: nn.Module, ranks: Mapping[str, int]) -> None:
        self.model = model
        self.ranks = ranks
        self.sums: dict[str, Tensor] = {}
        self.mask: Tensor | None = None

    def _add(self, name: str, output: Tensor, *, bias: Tensor | None) -> None:
        rows = output.detach() if bias is None else output.detach() - bias
        rows = rows.reshape(output.shape[0] if output.ndim > 2 else 1, -1, output.shape[-1])
        for i, sample in enumerate(rows):
            if self.mask is not None and self.mask.shape[1] == len(sample):
                sample = sample[self.mask[i].bool()]
            top = top_directions(sample.double(), self.ranks[name])
            total = self.sums.setdefault(name, top.new_zeros(top.shape[0], top.shape[0]))
            total += top @ top.T

    def __enter__(self) -> _Projectors:
        self.handles = []
        for name in self.ranks:
            module = self.model.get_submodule(name)

            def hook(module: nn.Module, _args: object, output: Tensor, *, name: str = name) -> None:
                bias = getattr(module, "bias", None)
                self._add(name, output, bias=bias.detach() if isinstance(bias, Tensor) else None)

            self.handles.append(module.register_forward_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def output_bases(
    model: nn.Module, task: Task, *, batches: Sequence[Batch], ranks: Mapping[str, int]
) -> dict[str, Tensor]:
    """For each site of `ranks` an orthonormal basis (N, r) of its outputs, in one pass.

    Memory: one N × N projector sum a site, whatever the data.
    """
    with _Projectors(model, ranks) as projectors:
        for batch in batches:
            projectors.mask = batch.get(MASK)
            task.output(model, batch)
    return {name: merge_bases(total, ranks[name]) for name, total in projectors.sums.items()}
