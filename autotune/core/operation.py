"""One kernel of a traced pass, found by compress/operations.py, priced by predictor/network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One kernel of a pass: what it reads and writes, and its shape.

    `kind`: "layer" (a site), "memory" (elementwise, norms, gathers, copies), "product" (`batch`
    products of queries × head_dim by head_dim × keys), or "attention" (`batch` × `heads` sequences
    of `queries` against `keys`, keys and values in `kv_heads` heads). `reads` and `writes` are
    pairs (number of the tensor, bytes moved).
    """

    kind: str
    reads: tuple[tuple[int, int], ...] = ()
    writes: tuple[tuple[int, int], ...] = ()
    batch: int = 1
    heads: int = 1
    kv_heads: int = 1
    queries: int = 0
    keys: int = 0
    head_dim: int = 0
    causal: bool = False

    @property
    def moved_bytes(self) -> int:
        """Bytes that the operation reads and writes."""
        return sum(size for _, size in (*self.reads, *self.writes))
