"""What a call costs in energy, by the device's own counter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from autotune.profiler.measure.timing import Runner

# The counter of a GPU moves in steps of some 10 ms to 100 ms; it is read no more often than this.
_READ_EVERY_S = 2e-3
# A counter that does not move for so many times as long as was asked for does not work.
_PATIENCE = 5


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Of one call, and the mean power while calls followed one another."""

    energy_j: float
    power_w: float


def energy_of(
    runner: Runner,
    *,
    seconds: float,
    counted_j: Callable[[], float | None],
    clock: Callable[[], float] = time.perf_counter,
) -> Energy | None:
    """Run for about `seconds` from one step of the counter to another; None where it stands still.

    All that the device draws is counted, idle parts and memory too.
    """
    started = clock()
    runner()
    calls = max(1, math.ceil(_READ_EVERY_S / max(clock() - started, 1e-7)))
    started, done = clock(), 0
    last_j, first = counted_j(), None
    while last_j is not None and clock() - started <= _PATIENCE * seconds:
        for _ in range(calls):
            runner()
        done += calls
        now_s, now_j = clock(), counted_j()
        if now_j is None or now_j <= last_j:
            continue
        last_j = now_j
        if first is None:
            first = (now_s, now_j, done)
        elif now_s - first[0] >= seconds:
            spent_j = now_j - first[1]
            return Energy(
                energy_j=spent_j / (done - first[2]), power_w=spent_j / (now_s - first[0])
            )
    return None
