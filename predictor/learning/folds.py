"""Errors of points whose groups were left out of the fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
_FOLDS = 8


def left_out(errors: Callable[[Index, Index], Array], group: Index) -> Array | None:
    """`errors(train, test)` for all points (n,), whole groups in one of eight folds.

    None where there is one group only, and nothing to leave out.
    """
    groups, index = np.unique(group, return_inverse=True)
    if len(groups) < 2:
        return None
    fold = (np.random.default_rng(0).permutation(len(groups)) % _FOLDS)[index.ravel()]
    found = np.empty(len(group))
    for number in np.unique(fold):
        test = np.flatnonzero(fold == number)
        found[test] = errors(np.flatnonzero(fold != number), test)
    return found
