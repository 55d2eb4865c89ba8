"""A correction from a few measurements: the simplest that helps on measurements it did not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autotune.predictor.learning.conformal import conformal_quantile
from autotune.predictor.learning.folds import is_better, left_out, shrunken_mean

if TYPE_CHECKING:
    from autotune.predictor.learning.gaussian_process import Process

Array = NDArray[np.float64]
Index = NDArray[np.intp]
# So many measurements of a regime weigh as much as the factor of all.
_PRIOR = 2.0
# A process with a scale for each feature needs so many.
_LEAST_SMOOTH = 25
# Fewer left-out errors say nothing about a 90 % quantile.
_LEAST_WIDTH = 20


@dataclass(frozen=True, kw_only=True)
class Points:
    """Where measurements are: features (n, d), their regime (n,), and their group (n,).

    Points of one regime are alike in what limits them; points of one group know each other, and are
    left out together.
    """

    features: Array
    regime: Index
    group: Index

    def of(self, rows: Index) -> Points:
        """Some of the points."""
        return Points(
            features=self.features[rows], regime=self.regime[rows], group=self.group[rows]
        )


Shift = Callable[[Points], Array]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What to add to logs: what was chosen by its name, and mean left-out errors before and after.

    `half_width` (log, 90 %) is that of the errors of left-out points; None where they are too few.
    """

    name: str
    shift: Shift
    error_before: float
    error_after: float
    half_width: float | None


def choose_correction(points: Points, off: Array) -> Correction:
    """Of nothing, one factor, one for each regime, and a smooth surface: what does best.

    `off` (n,) is by how much (log) each measurement is above the prediction. One factor, drawn
    towards 1, is taken unless none is surely better on groups that were left out; another
    correction only where it is surely better than that.
    """
    none = _left_out(_none, points, off=off)
    best, name, errors = _one_factor, "one factor", _left_out(_one_factor, points, off=off)
    if not len(off) or is_better(none, errors, group=points.group):
        best, name, errors = _none, "nothing", none
    for candidate, label, least in _CANDIDATES:
        if len(off) < least:
            continue
        found = _left_out(candidate, points, off=off)
        if is_better(found, errors, group=points.group):
            best, name, errors = candidate, label, found
    return Correction(
        name=name,
        shift=best(points, off),
        error_before=float(np.abs(none).mean()) if len(off) else 0.0,
        error_after=float(np.abs(errors).mean()) if len(off) else 0.0,
        half_width=conformal_quantile(np.abs(errors), 0.9) if len(off) >= _LEAST_WIDTH else None,
    )


def _left_out(fit: Callable[[Points, Array], Shift], points: Points, *, off: Array) -> Array:
    """Errors of every point, corrected by a fit to the groups outside of its fold."""

    def errors(train: Index, test: Index) -> Array:
        return off[test] - fit(points.of(train), off[train])(points.of(test))

    found = left_out(errors, points.group)
    return off if found is None else found


def _none(points: Points, off: Array) -> Shift:
    del points, off
    return partial(_same, value=0.0)


def _one_factor(points: Points, off: Array) -> Shift:
    return partial(_same, value=shrunken_mean(off, points.group))


def _factor_by_regime(points: Points, off: Array) -> Shift:
    """Drawn towards the factor of all, the more the fewer points a regime has."""
    of_all = shrunken_mean(off, points.group)
    regimes = np.unique(points.regime)
    factors = {
        int(regime): (off[points.regime == regime].sum() + _PRIOR * of_all)
        / ((points.regime == regime).sum() + _PRIOR)
        for regime in regimes
    }
    return partial(_by_regime, factors=factors, otherwise=of_all)


def _smooth(points: Points, off: Array) -> Shift:
    """A Gaussian process over the features, of what factors by regime leave."""
    from autotune.predictor.learning.gaussian_process import Process

    if len(off) < _LEAST_SMOOTH:
        return _factor_by_regime(points, off)
    base = _factor_by_regime(points, off)
    process = Process(points.features, off - base(points), groups=points.group)
    return partial(_surface, base=base, process=process)


# Shifts are of functions with names, not closures: estimators of scikit-learn can be copied.
def _same(asked: Points, *, value: float) -> Array:
    return np.full(len(asked.regime), value)


def _by_regime(asked: Points, *, factors: Mapping[int, float], otherwise: float) -> Array:
    return np.array([factors.get(int(regime), otherwise) for regime in asked.regime])


def _surface(asked: Points, *, base: Shift, process: Process) -> Array:
    return base(asked) + process.predict(asked.features)[0]


_CANDIDATES = (
    (_factor_by_regime, "a factor for each range of tokens", 6),
    (_smooth, "a smooth surface", _LEAST_SMOOTH),
)
