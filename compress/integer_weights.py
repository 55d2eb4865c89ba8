"""How layers of integers store their weights: codes in one dimension, and scales.

In one dimension, so that no reader takes them for the dense weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.core.forms import (
    INT4_WEIGHT_ONLY,
    INT8_DYNAMIC,
    INT8_STATIC,
    INT8_WEIGHT_ONLY,
    WEIGHT_BLOCK,
)

BYTE = 8


@dataclass(frozen=True, kw_only=True)
class WeightLayout:
    """Codes of `bits` (8 or 4), and a scale for each `block` inputs of a row (None: for the row).

    Codes are signed. Those of 8 bits are stored as int8; two of 4 bits share a byte, the even
    column in its lower half, with 8 added to each. Rows end with zeros where blocks need them.
    """

    bits: int = 8
    block: int | None = None

    def blocks(self, columns: int) -> int:
        """Scales of one row."""
        return 1 if self.block is None else -(-columns // self.block)

    def stored_columns(self, columns: int) -> int:
        """Codes of one row."""
        return columns if self.block is None else self.block * self.blocks(columns)

    def stored_bytes(self, rows: int, columns: int) -> float:
        """Bytes of a matrix, its fp32 scales included."""
        codes = rows * self.stored_columns(columns) * self.bits / 8
        return codes + rows * self.blocks(columns) * torch.float32.itemsize

    def empty(
        self, rows: int, columns: int, *, device: torch.device | str | None
    ) -> tuple[nn.Parameter, nn.Parameter]:
        """Codes and scales of a matrix (rows, columns), for a loader to fill."""
        count = rows * self.stored_columns(columns) * self.bits // 8
        kind = torch.int8 if self.bits == BYTE else torch.uint8
        codes = torch.empty(count, dtype=kind, device=device)
        scales = torch.empty(rows * self.blocks(columns), device=device)
        return nn.Parameter(codes, requires_grad=False), nn.Parameter(scales, requires_grad=False)

    def pack(self, codes: Tensor) -> Tensor:
        """What is stored of the codes (rows, columns)."""
        columns = codes.shape[1]
        padded = functional.pad(codes.to(torch.int8), (0, self.stored_columns(columns) - columns))
        if self.bits == BYTE:
            return padded.flatten().contiguous()
        pairs = (padded + 8).to(torch.uint8).reshape(-1, 2)
        return pairs[:, 0] | (pairs[:, 1] << 4)

    def unpack(self, stored: Tensor, rows: int) -> Tensor:
        """The codes (rows, stored columns) back from `pack`."""
        if self.bits != BYTE:
            halves = torch.stack([stored & 15, stored >> 4], dim=-1)
            stored = halves.flatten().to(torch.int8) - 8
        matrix: Tensor = stored.unflatten(0, (rows, -1))
        return matrix

    def values(self, stored: Tensor, scales: Tensor, *, columns: int, dtype: torch.dtype) -> Tensor:
        """The matrix (rows, columns) that codes and scales stand for."""
        rows = len(scales) // self.blocks(columns)
        wide = scales.to(torch.promote_types(scales.dtype, dtype))
        codes = self.unpack(stored, rows).unflatten(-1, (self.blocks(columns), -1))
        matrix: Tensor = (codes * wide.unflatten(0, (rows, -1, 1))).flatten(1)
        return matrix[:, :columns].to(dtype)


_PER_ROW = WeightLayout()
LAYOUTS = {
    INT8_STATIC: _PER_ROW,
    INT8_DYNAMIC: _PER_ROW,
    INT8_WEIGHT_ONLY: WeightLayout(block=WEIGHT_BLOCK),
    INT4_WEIGHT_ONLY: WeightLayout(bits=4, block=WEIGHT_BLOCK),
}
