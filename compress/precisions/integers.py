"""Precisions of integer weights, with inputs that are rounded too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.compress.integer_weights import LAYOUTS
from autotune.compress.precisions.base import Precision
from autotune.compress.rounding import nearest
from autotune.core.forms import INT4_WEIGHT_ONLY, INT8_DYNAMIC, INT8_STATIC, INT8_WEIGHT_ONLY

if TYPE_CHECKING:
    from torch import Tensor


class _Integers(Precision):
    """Integers in the layout of the precision's name."""

    rounds_inputs = True
    backends = frozenset({"onnxruntime-cpu"})

    def weight_bytes(self, rows: int, columns: int, *, dtype: str) -> float:
        """The codes, and the scales."""
        del dtype
        return LAYOUTS[self.name].stored_bytes(rows, columns)

    def rounded(self, weight: Tensor) -> Tensor:
        """Every value at the nearest step of its row or block."""
        return nearest(weight.float(), layout=LAYOUTS[self.name]).values().to(weight.dtype)

    def available_on(self, backend: str) -> bool:
        """On the processors' runtimes that read the graphs."""
        return backend in self.backends


class Int8Static(_Integers):
    """8 bits with a scale for each output, and inputs in a range that was calibrated (QDQ)."""

    name = INT8_STATIC
    backends = frozenset({"onnxruntime-cpu", "openvino-cpu"})


class Int8Dynamic(_Integers):
    """The same weights; inputs are rounded in the range that they have at each call."""

    name = INT8_DYNAMIC


class Int8WeightOnly(_Integers):
    """8 bits with a scale for each block of inputs; what is read is rounded block by block."""

    name = INT8_WEIGHT_ONLY


class Int4WeightOnly(_Integers):
    """4 bits with a scale for each block of inputs; what is read is rounded to 8 bits."""

    name = INT4_WEIGHT_ONLY
