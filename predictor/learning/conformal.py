"""Split-conformal quantiles of errors, for intervals with a stated coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def conformal_quantile(residuals: NDArray[np.float64] | Sequence[float], coverage: float) -> float:
    """The ⌈(n+1)·coverage⌉-th smallest residual; infinite when n is too small for it."""
    ordered = np.sort(np.asarray(residuals, dtype=np.float64))
    index = math.ceil((len(ordered) + 1) * coverage) - 1
    return float(ordered[index]) if index < len(ordered) else math.inf
