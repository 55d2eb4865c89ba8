"""What a few measurements of a device change in what donors say of it.

One factor, drawn towards 1, is taken unless nothing is surely better on layers that are left out;
two processes where these are (of what the donors get wrong and of what the roofline does, averaged;
their scales are learned from donors that are left out, as too few points choose bad ones).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process.kernels import Kernel

from autotune.predictor.learning.folds import is_better, left_out, shrunken_mean
from autotune.predictor.learning.gaussian_process import Process

Array = NDArray[np.float64]
Index = NDArray[np.intp]
NOTHING, ONE_FACTOR, PROCESSES = "nothing", "one factor", "a smooth surface"
# Fewer points choose processes that are worse than nothing on one device or another.
_LEAST_PROCESSES = 10


@dataclass(frozen=True, kw_only=True)
class Bases:
    """What is known without a measurement, (n,) each, at points with features (n, d).

    Log seconds that the sheet and that donors say; points of one group (n,) know each other.
    """

    features: Array
    limit: Array
    donated: Array
    group: Index

    def of(self, rows: Index) -> Bases:
        """Some of the points."""
        return Bases(
            features=self.features[rows],
            limit=self.limit[rows],
            donated=self.donated[rows],
            group=self.group[rows],
        )


Guess = Callable[[Bases], tuple[Array, Array]]


class Adaptation:
    """The best correction of `Bases` by measurements; its name, and errors of layers left out.

    `error_before` and `error_after` are means of |log seconds| without and with it.
    """

    def __init__(
        self,
        known: Bases,
        log_seconds: Array,
        *,
        kernels: tuple[Kernel, Kernel],
        half_width: float,
        random_state: int = 0,
    ) -> None:
        """`kernels` are of what the sheet and donors leave, `half_width` of donors alone."""
        self._kernels, self._random_state = kernels, random_state
        self._half_width, self.points = half_width, len(log_seconds)
        names = [NOTHING, ONE_FACTOR]
        if self.points >= _LEAST_PROCESSES:
            names.append(PROCESSES)
        errors = {name: self._errors(name, known, log_seconds=log_seconds) for name in names}
        self.name = ONE_FACTOR
        for name in (NOTHING, *names[2:]):
            if is_better(errors[name], errors[self.name], group=known.group):
                self.name = name
        self.error_before, self.error_after = (
            float(np.abs(errors[name]).mean()) for name in (NOTHING, self.name)
        )
        self._guess = self._fit(self.name, known, log_seconds=log_seconds)

    def predict(self, asked: Bases) -> tuple[Array, Array]:
        """Log seconds and their 90 % half widths, (n,) each."""
        return self._guess(asked)

    def _fit(self, name: str, known: Bases, *, log_seconds: Array) -> Guess:
        """The correction of this name; `NOTHING` and `ONE_FACTOR` keep the donors' width."""
        if name != PROCESSES:
            factor = 0.0
            if name == ONE_FACTOR:
                factor = shrunken_mean(log_seconds - known.donated, known.group)
            return partial(self._donated, factor=factor)
        of_limit, of_donated = (
            Process(
                known.features, log_seconds - base, random_state=self._random_state, kernel=kernel
            )
            for base, kernel in zip((known.limit, known.donated), self._kernels, strict=True)
        )
        return partial(self._processed, of_limit=of_limit, of_donated=of_donated)

    def _donated(self, asked: Bases, *, factor: float) -> tuple[Array, Array]:
        return asked.donated + factor, np.full(len(asked.donated), self._half_width)

    def _processed(
        self, asked: Bases, *, of_limit: Process, of_donated: Process
    ) -> tuple[Array, Array]:
        above, of_above = of_limit.predict(asked.features)
        beside, of_beside = of_donated.predict(asked.features)
        width = (of_above + of_beside) / 2
        # A process of a handful of points does not know how far it is off.
        width = np.where(np.isfinite(width), width, self._half_width)
        return (asked.limit + above + asked.donated + beside) / 2, width

    def _errors(self, name: str, known: Bases, *, log_seconds: Array) -> Array:
        """Of log seconds of layers left out, (n,)."""

        def errors(train: Index, test: Index) -> Array:
            guess = self._fit(name, known.of(train), log_seconds=log_seconds[train])
            return guess(known.of(test))[0] - log_seconds[test]

        found = left_out(errors, known.group)
        if found is not None:
            return found
        # A single layer cannot show what helps others.
        return known.donated - log_seconds
