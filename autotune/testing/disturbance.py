"""What disturbs a simulated measurement: noise, slow spells, drift, dying and hanging processes.

Everything is seeded: the same disturbance, seed and tasks give the same timings and the same
failures again.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from autotune.core.errors import UsageError

FaultKind = Literal["death", "hang", "error"]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Factors on the seconds of single calls: log-normal, with a heavy tail of slow ones.

    `sigma` is the standard deviation of the logarithm. With `tail_probability` a call is also
    slower by a Pareto factor of exponent `tail_exponent` (smaller is heavier), at most 100.
    """

    sigma: float = 0.01
    tail_probability: float = 0.01
    tail_exponent: float = 3.0

    def draw(self, random_source: random.Random) -> float:
        """The factor of one call; its median is 1."""
        factor = math.exp(random_source.gauss(0.0, self.sigma)) if self.sigma else 1.0
        if self.tail_probability and random_source.random() < self.tail_probability:
            factor *= min(random_source.paretovariate(self.tail_exponent), 100.0)
        return factor


@dataclass(frozen=True, kw_only=True)
class SlowSpell:
    """A neighbour: calls take `factor` times as long for a while, and `added_s` for each product.

    It lasts from `start_s` for `length_s` seconds of the simulated clock, and where `first_task`
    is given, only while one of the tasks first_task … last_task is timed (numbered from 0 in the
    order in which the runner gets them; without `last_task`, to the end). Of the calls in it the
    share `hits` is slowed. `reason` is what the device's own sensors report, as a GPU's driver
    does; None is a neighbour that only the timings show.
    """

    start_s: float = 0.0
    length_s: float = math.inf
    factor: float = 2.0
    added_s: float = 0.0
    first_task: int | None = None
    last_task: int | None = None
    hits: float = 1.0
    reason: str | None = None

    def __post_init__(self) -> None:
        least = min(self.length_s, self.added_s)
        if self.factor <= 0 or least < 0 or not 0 <= self.hits <= 1:
            raise UsageError(
                "a slow spell needs factor > 0, length_s >= 0, added_s >= 0 and 0 <= hits <= 1, "
                f"got factor={self.factor}, length_s={self.length_s}, added_s={self.added_s}, "
                f"hits={self.hits}"
            )

    def covers(self, now_s: float, task: int) -> bool:
        """Whether the spell is on."""
        if not self.start_s <= now_s < self.start_s + self.length_s:
            return False
        if self.first_task is None:
            return True
        return self.first_task <= task <= (math.inf if self.last_task is None else self.last_task)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Clocks that change steadily: exp(rate_per_s · t), the exponent bounded by ± `limit`."""

    rate_per_s: float = 0.0
    limit: float = 0.2

    def factor(self, now_s: float) -> float:
        """By how much calls take longer at `now_s`."""
        return math.exp(max(-self.limit, min(self.limit, self.rate_per_s * now_s)))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A failure of the measuring process.

    "death": the process ends, as by a signal. "hang": it does not answer until its time limit.
    "error": the backend raises, and the message is `message`. It hits task number `task`
    (numbered as in `SlowSpell`) once `after_s` simulated seconds of it have passed, or, where
    `at_s` is given instead, whichever task is timed at that moment of the simulated clock.

    Raises:
        UsageError: neither or both of `task` and `at_s`.
    """

    kind: FaultKind = "death"
    task: int | None = None
    at_s: float | None = None
    after_s: float = 0.0
    message: str = "RuntimeError: simulated failure"

    def __post_init__(self) -> None:
        if (self.task is None) == (self.at_s is None):
            raise UsageError("a fault needs either task= or at_s=")

    def moment_s(self, task: int, started_s: float) -> float:
        """When it would hit a task that started at `started_s`; infinity for another task."""
        if self.at_s is not None:
            return self.at_s if self.at_s >= started_s else math.inf
        return started_s + self.after_s if self.task == task else math.inf


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """Everything that happens to measurements on one simulated machine.

    `noise` None takes the hardware's own. Beside the chosen `faults`, every task dies or hangs with
    the given probabilities, at a random moment.
    """

    noise: Noise | None = None
    spells: tuple[SlowSpell, ...] = ()
    drift: Drift = Drift()
    faults: tuple[Fault, ...] = ()
    death_probability: float = 0.0
    hang_probability: float = 0.0

    def __post_init__(self) -> None:
        total = self.death_probability + self.hang_probability
        if min(self.death_probability, self.hang_probability) < 0 or total > 1:
            raise UsageError(
                "death_probability and hang_probability must be at least 0 and at most 1 together, "
                f"got {self.death_probability} and {self.hang_probability}"
            )

    def seconds(
        self, calm_s: float, *, now_s: float, task: int, products: int, random_source: random.Random
    ) -> float:
        """Of one call of `calm_s` with so many products, beside its noise."""
        seconds = calm_s
        for spell in self.spells:
            if spell.covers(now_s, task) and random_source.random() < spell.hits:
                seconds = seconds * spell.factor + products * spell.added_s
        return seconds * self.drift.factor(now_s)

    def reason(self, now_s: float, task: int) -> str | None:
        """Why the device's sensors report it slowed; None while they do not."""
        found = (s.reason for s in self.spells if s.reason and s.covers(now_s, task))
        return next(found, None)


CALM = Disturbance(noise=Noise(sigma=0.0, tail_probability=0.0))


def random_disturbance(
    seed: int, *, horizon_s: float, spells: int = 3, factor: float = 3.0, deaths: int = 0
) -> Disturbance:
    """Spells and deaths at random moments of the first `horizon_s` seconds of the clock.

    Spells take up to a fifth of the horizon each and slow calls by up to `factor`.
    """
    draw = random.Random(seed)
    return Disturbance(
        spells=tuple(
            SlowSpell(
                start_s=draw.uniform(0.0, horizon_s),
                length_s=draw.uniform(0.0, horizon_s / 5),
                factor=draw.uniform(1.0, factor),
                hits=draw.choice((1.0, 0.5)),
            )
            for _ in range(spells)
        ),
        drift=Drift(rate_per_s=draw.gauss(0.0, 0.05) / horizon_s),
        faults=tuple(Fault(at_s=draw.uniform(0.0, horizon_s)) for _ in range(deaths)),
    )
