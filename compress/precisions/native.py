"""The precision `native`: factors stay in the model's own dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.compress.precisions.base import Precision
from autotune.devices.specs import DTYPE_BYTES

if TYPE_CHECKING:
    from torch import Tensor


class Native(Precision):
    """Weights as the model has them."""

    name = "native"

    def weight_bytes(self, rows: int, columns: int, *, dtype: str) -> float:
        """One value of the dtype for every weight."""
        return float(rows * columns * DTYPE_BYTES[dtype])

    def rounded(self, weight: Tensor) -> Tensor:
        """The weight itself, as nothing is rounded."""
        return weight
