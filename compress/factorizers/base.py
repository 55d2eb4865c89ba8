"""How a site's weight becomes two factors, once its rank is chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from autotune.compress.metrics.base import Whitening
from autotune.core.layers import Site


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a factorizer sees of a site: its weight (N, K) in fp64 and the metric's roots.

    `output_basis` (N, q ≥ r) is there for a factorizer that asked for it by `needs_output_basis`.
    """

    site: Site
    weight: Tensor = field(repr=False)
    whitening: Whitening = field(repr=False)
    output_basis: Tensor | None = field(default=None, repr=False)


class Factorizer(ABC):
    """One way to compute factors.

    Contract (`autotune.testing.suites.factorizer` checks it):
    - `factors(layer, rank)` returns finite up (N, r) and down (r, K) in fp64, the same up to
      rounding every time, exact to 1e-10 at rank min(N, K).
    - `least_rank`, from 1 to min(N, K), is the smallest rank it is defined for; callers ask for no
      smaller one.
    - The layer's tensors belong to the caller: they are not written to, and the factors share no
      memory with its weight.
    - With `needs_output_basis` the layer carries the top directions of its outputs.
    - A factorizer holds options only: threads may share one.
    """

    name: str
    needs_output_basis: bool = False

    @abstractmethod
    def factors(self, layer: Layer, rank: int) -> tuple[Tensor, Tensor]:
        """Up (N, r) and down (r, K) factor of rank r."""

    def least_rank(self, site: Site) -> int:
        """The smallest rank this factorizer can make of the site."""
        del site
        return 1
