"""Pivoted pairs of factors: the same product with r·(K + N − r) numbers instead of r·(K + N).

A down factor of rank r has r columns that span the others. With these as the basis of the latent
space it holds an identity, which is neither stored nor multiplied: U·V = U'·[I T]·Pᵀ. The same
works for the rows of the up factor.

Source: PIFA (Zhao et al., ICML 2025), which pivots by LU; here by a QR with column pivoting, whose
interpolation coefficients stay small (H. Cheng, Z. Gimbutas, P. G. Martinsson and V. Rokhlin, SIAM
J. Sci. Comput. 26, 1389, 2005).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from scipy.linalg import qr, solve_triangular
from torch import Tensor, nn

from autotune.compress.lowrank import LowRankLinear, shared_low_rank_like
from autotune.compress.pivoted_layers import (
    LeadingPivotedLinear,
    PivotedInLinear,
    PivotedOutLinear,
    narrow_side,
)

Side = Literal["in", "out"]


@dataclass(frozen=True, kw_only=True)
class Pivoted:
    """A pair whose latent is a selection of inputs ("in") or whose outputs hold the latent ("out").

    "in": y = up · (x[order[:r]] + down · x[order[r:]]), up (N, r), down (r, K − r), order (K).
    "out": z = down · x, y[order] = (z, up · z), down (r, K), up (N − r, r), order (N).
    """

    side: Side
    up: Tensor = field(repr=False)
    down: Tensor = field(repr=False)
    order: Tensor = field(repr=False)

    @property
    def product(self) -> Tensor:
        """The weight (N, K) that the pair stands for."""
        eye = torch.eye(self.up.shape[1], dtype=self.up.dtype, device=self.up.device)
        back = self.order.argsort()
        if self.side == "in":
            return self.up @ torch.cat([eye, self.down], dim=1)[:, back]
        return torch.cat([eye, self.up])[back] @ self.down


def pivoted(up: Tensor, down: Tensor, *, side: Side) -> Pivoted:
    """The pair up (N, r) · down (r, K), r ≤ min(N, K), with an identity on one side."""
    if side == "out":
        turned = pivoted(down.T, up.T, side="in")
        return Pivoted(
            side=side,
            up=turned.down.T.contiguous(),
            down=turned.up.T.contiguous(),
            order=turned.order,
        )
    order, rest = _interpolation(down)
    rank = down.shape[0]
    return Pivoted(
        side=side,
        up=(up.double() @ down.double()[:, order[:rank]]).to(up.dtype),
        down=rest.to(down.dtype),
        order=order,
    )


def pivoted_like(
    modules: Sequence[nn.Module],
    *,
    ups: Sequence[Tensor],
    down: Tensor,
    rounded: Callable[[Tensor], Tensor] = lambda factor: factor,
) -> list[LowRankLinear]:
    """The pivoted forms of `modules` with one input: ups (N_i, r) and one down (r, K).

    A single layer has its identity on the narrow side; several share a latent that selects inputs.
    `rounded` makes of a pivoted factor the values that a layer multiplies with.
    """
    up = torch.cat(list(ups))
    alone = narrow_side(down.shape[1], len(up)) if len(modules) == 1 else PivotedInLinear
    pair = pivoted(up, down, side="in" if alone is PivotedInLinear else "out")
    widths = [len(pair.up)] if len(modules) == 1 else [len(each) for each in ups]
    layers = shared_low_rank_like(
        modules,
        ups=[rounded(each) for each in pair.up.split(widths)],
        down=rounded(pair.down),
        alone=alone,
        leading=LeadingPivotedLinear,
    )
    first = layers[0]
    if isinstance(first, PivotedInLinear):
        first.weight_order = pair.order
    elif isinstance(first, PivotedOutLinear):
        first.weight_places = pair.order.argsort()
    return layers


def _interpolation(down: Tensor) -> tuple[Tensor, Tensor]:
    """An order of the columns of `down` (r, K), and T (r, K − r): of them, the last by the first.

    down[:, order[r:]] = down[:, order[:r]] · T. Pivots and the others are in ascending order each,
    so that a selection reads memory forwards.
    """
    rank = down.shape[0]
    _, upper, order = qr(down.double().cpu().numpy(), mode="economic", pivoting=True)
    found = torch.from_numpy(order).long()
    rest = torch.zeros(rank, len(found) - rank, dtype=torch.float64)
    # Columns of less than rank r are spanned by fewer pivots; what remains of the others is zero.
    spanning = int((abs(upper.diagonal()) > 1e-300).sum())
    solved = solve_triangular(upper[:spanning, :spanning], upper[:spanning, rank:])
    rest[:spanning] = torch.from_numpy(solved)
    pivots, by_pivot = found[:rank].sort()
    others, by_other = found[rank:].sort()
    ordered = torch.cat([pivots, others]).to(down.device)
    return ordered, rest[by_pivot][:, by_other].to(down.device)
