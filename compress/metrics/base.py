"""What a rank's error means: a pair of square roots around the weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autotune.compress.statistics import Statistics
from autotune.core.layers import Site


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """Roots with left·leftᵀ = H (N, N) and right·rightᵀ = G (K, K); None is the identity.

    The error of Ŵ is scale · ‖leftᵀ (W − Ŵ) right‖²_F. Both roots are lower triangular, fp64.
    """

    left: Tensor | None
    right: Tensor | None
    scale: float

    def whiten(self, weight: Tensor) -> Tensor:
        """leftᵀ · W · right for W (N, K)."""
        out = weight
        if self.left is not None:
            out = self.left.T @ out
        if self.right is not None:
            out = out @ self.right
        return out

    def unwhiten_up(self, up: Tensor) -> Tensor:
        """left⁻ᵀ · up for up (N, r)."""
        if self.left is None:
            return up
        solved: Tensor = torch.linalg.solve_triangular(self.left.T, up, upper=True)
        return solved

    def unwhiten_down(self, down: Tensor) -> Tensor:
        """Down · right⁻¹ for down (r, K)."""
        if self.right is None:
            return down
        solved: Tensor = torch.linalg.solve_triangular(self.right, down, upper=False, left=False)
        return solved


class Metric(ABC):
    """One meaning of error.

    Contract (`autotune.testing.suites.metric` checks it):
    - `whitening(site, statistics)` returns invertible lower triangular fp64 roots and a positive
      scale, so that the full-rank factorization is exact in fp64 to 1e-10; also of a site that
      received no data, whose moments are zero.
    - It is deterministic, reads only the statistics that `moments` names, and writes to none.
    - With `in_loss_units` its errors estimate the rise of the task's mean loss, so those of
      different sites compare and add.
    - A metric holds options only: threads may share one.
    """

    name: str
    moments: frozenset[str] = frozenset()
    in_loss_units: bool = False

    @abstractmethod
    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """The roots for one site."""

    def shared_whitenings(self, members: Sequence[Site], statistics: Statistics) -> list[Whitening]:
        """The roots for sites with one input, their right roots equal.

        Moments of the input are equal already; a metric with an input side of each site's own
        overrides this.
        """
        return [self.whitening(member, statistics) for member in members]


def support_root(gram: Tensor, floor: float = 1e-10) -> Tensor:
    """Lower root of `gram` (n, n), exact on its support; off it eigenvalues are set to a floor.

    Directions that the data never showed have no error of their own; `floor` (relative to the
    largest eigenvalue) keeps the root invertible, so that they are dropped first and the full-rank
    factorization is still exact.
    """
    values, vectors = torch.linalg.eigh(gram)
    largest = float(values[-1])
    if largest <= 0:
        return torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    if float(values[0]) > floor * largest:
        root: Tensor = torch.linalg.cholesky(gram)
        return root
    return _clipped_root(values, vectors, lowest=floor * largest)


def damped_root(gram: Tensor, damping: float) -> Tensor:
    """Lower Cholesky root of gram + damping · mean(diag) · I, (n, n), fp64.

    A Gram of few samples is singular; the ridge keeps its root invertible, and moves the error
    of no direction by more than `damping` of the average one. Where rounding has left eigenvalues
    below zero by more than the ridge, they are set to the ridge.
    """
    n = gram.shape[0]
    ridge = damping * float(gram.diagonal().mean())
    # A site that never received anything has a zero Gram: any root serves.
    eye = torch.eye(n, dtype=gram.dtype, device=gram.device)
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(gram + ridge * eye if ridge > 0 else eye)
    if failed:
        values, vectors = torch.linalg.eigh(gram)
        return _clipped_root(values, vectors, lowest=ridge)
    return root


def _clipped_root(values: Tensor, vectors: Tensor, *, lowest: float) -> Tensor:
    """Lower root of the matrix of these eigenvalues, none below `lowest`, and vectors."""
    # QR of the symmetric root: Rᵀ is lower and RᵀR the clipped Gram, with no second rounding.
    _, upper = torch.linalg.qr(values.clamp_min(lowest).sqrt()[:, None] * vectors.T)
    root: Tensor = upper.T.contiguous()
    return root
