"""How the weights of a layer are stored and rounded, beside the model's own dtype."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from autotune.core.layers import LayerShape

if TYPE_CHECKING:
    from torch import Tensor


class Precision(ABC):
    """One precision of weights, such as 8-bit integers with a scale for every row.

    A form names it (`rank=256:int8`, `dense:int8`). It has no options, since its name is all that a
    form holds: a variant is a precision with a name of its own.

    Contract (`autotune.testing.suites.precision` checks it):
    - `name` is in lower case, words joined by hyphens, as forms spell it.
    - `weight_bytes` counts everything that is stored of a matrix, scales included; it is positive
      and does not fall when the matrix grows.
    - `rounded` returns the values that a kernel of this precision multiplies with, dequantized into
      the shape, dtype and device of the weight. They are finite, the same every time, and their own
      rounding up to the last digits. The weight is not written to.
    - A precision holds no state: threads may share one.
    """

    name: str
    # Whether what the weight multiplies is rounded too, so that layers of this precision need what
    # calibration saw of their inputs (compress/integer_forms.py).
    rounds_inputs = False

    @abstractmethod
    def weight_bytes(self, rows: int, columns: int, *, dtype: str) -> float:
        """Stored bytes of one matrix (N, K) of a model in `dtype` ("fp32", "fp16", "bf16")."""

    @abstractmethod
    def rounded(self, weight: Tensor) -> Tensor:
        """The matrix (N, K) as the layer computes with it; rows are outputs."""

    def available_on(self, backend: str) -> bool:
        """Whether builds for the backend of that name may hold weights in this precision."""
        del backend
        return True

    def layer_bytes(self, shape: LayerShape) -> float:
        """Stored bytes of a layer: the dense weight, or all factors."""
        return sum(self.weight_bytes(n, k, dtype=shape.dtype) for n, k in shape.matrices)

    def bits_per_weight(self, shape: LayerShape) -> float:
        """Stored bits divided by the number of weights, scales included."""
        return 8 * self.layer_bytes(shape) / shape.parameters
