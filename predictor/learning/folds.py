"""Errors of points whose groups were left out of the fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
_FOLDS = 8
# A belief, not learned: layers scatter around a device's factor as far as factors are from 1.
_PRIOR = 2.0


def is_better(errors: Array, than: Array, *, group: Index) -> bool:
    """Whether |errors| are smaller on average by more than a standard error, over groups (n,).

    The rule of one standard error (Breiman et al., Classification and Regression Trees, 3.4.3): a
    correction that a few points seem to ask for by chance stays out.
    """
    gains = np.abs(than) - np.abs(errors)
    _, index = np.unique(group, return_inverse=True)
    index = index.ravel()
    of_groups = np.bincount(index, gains) / np.bincount(index)
    if len(of_groups) < 2:
        return bool(gains.mean() > 0)
    return bool(of_groups.mean() > of_groups.std(ddof=1) / np.sqrt(len(of_groups)))


def shrunken_mean(values: Array, group: Index) -> float:
    """The mean of the groups' means, as if `_PRIOR` more groups had been zero."""
    _, index = np.unique(group, return_inverse=True)
    index = index.ravel()
    of_groups = np.bincount(index, values) / np.bincount(index)
    return float(of_groups.sum() / (len(of_groups) + _PRIOR))


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
