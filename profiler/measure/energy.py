"""What a call costs in energy, by the device's own counter."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from autotune.profiler.measure.timing import Runner

# An H200's counter moves every 100 ms, and to read it takes 4 ms, in which the GPU is not to idle.
_PAUSE_S = 1e-3
# A counter that does not move for so many times as long as was asked for does not work.
_PATIENCE = 5


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Of one call, and the mean power while calls followed one another."""

    energy_j: float
    power_w: float


class _Steps:
    """When the counter moved, and to what; watched by a thread of its own."""

    def __init__(self, counted_j: Callable[[], float | None]) -> None:
        self._counted_j = counted_j
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[tuple[float, float]] = []

    def __enter__(self) -> _Steps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def span_s(self) -> float:
        """Seconds between the first step and the last."""
        return self.seen[-1][0] - self.seen[0][0] if self.seen else 0.0

    def _watch(self) -> None:
        last_j = self._counted_j()
        while last_j is not None and not self._done.wait(_PAUSE_S):
            now_j = self._counted_j()
            if now_j is not None and now_j > last_j:
                self.seen.append((time.perf_counter(), now_j))
            last_j = now_j


def energy_of(
    runner: Runner, *, seconds: float, counted_j: Callable[[], float | None]
) -> Energy | None:
    """Run for `seconds` or more from one step of the counter to another; None where it stands.

    All that the device draws is counted, its memory and what it takes when it idles too.
    """
    ended_s: list[float] = []
    with _Steps(counted_j) as steps:
        limit_s = time.perf_counter() + _PATIENCE * seconds
        while steps.span_s < seconds and time.perf_counter() < limit_s:
            runner()
            ended_s.append(time.perf_counter())
    if steps.span_s < seconds:
        return None
    (first_s, first_j), (last_s, last_j) = steps.seen[0], steps.seen[-1]
    calls = bisect.bisect(ended_s, last_s) - bisect.bisect(ended_s, first_s)
    if calls == 0:
        return None
    spent_j = last_j - first_j
    return Energy(energy_j=spent_j / calls, power_w=spent_j / (last_s - first_s))
