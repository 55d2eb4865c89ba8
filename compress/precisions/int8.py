"""The precisions `int8-static` and `int8-dynamic`: integer weights behind rounded inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.compress.precisions.base import Precision
from autotune.compress.rounding import nearest
from autotune.core.forms import INT8_DYNAMIC, INT8_STATIC

if TYPE_CHECKING:
    from torch import Tensor

_SCALE_BYTES = 4


class Int8Static(Precision):
    """8-bit integers with a scale for each output, and inputs in a range that was calibrated."""

    name = INT8_STATIC
    rounds_inputs = True
    _backends = frozenset({"onnxruntime-cpu", "openvino-cpu"})

    def weight_bytes(self, rows: int, columns: int, *, dtype: str) -> float:
        """One byte for every weight, and the scales."""
        del dtype
        return float(rows * (columns + _SCALE_BYTES))

    def rounded(self, weight: Tensor) -> Tensor:
        """Every value at the nearest step of its row."""
        return nearest(weight.float()).values().to(weight.dtype)

    def available_on(self, backend: str) -> bool:
        """On the processors' runtimes that read QDQ graphs."""
        return backend in self._backends


class Int8Dynamic(Int8Static):
    """The same weights; inputs are rounded in the range that they have at each call."""

    name = INT8_DYNAMIC
    _backends = frozenset({"onnxruntime-cpu"})
