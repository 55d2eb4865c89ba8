"""How long runners have been silent, by this process's own monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from autotune.service.job_records import Lease


class SilenceWatch:
    """Notes for how long the heartbeat of every running job has stayed the same.

    The times in the database are of wall clocks, which are set back and forward; here only that a
    heartbeat has changed counts. Time that passed without a look counts as one interval at most:
    an observer that was frozen has not seen that anybody was silent, and its own runners, frozen
    with it, are given the time to speak.
    """

    def __init__(
        self, silent_after_s: float, *, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._silent_after_s, self._every_s, self._clock = silent_after_s, every_s, clock
        self._looked_s: float | None = None
        self._silent: dict[Lease, tuple[float, float]] = {}

    def look(self, heartbeats: Mapping[Lease, float]) -> None:
        """Take note of the heartbeats of all running jobs as they are now."""
        now_s = self._clock()
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, self._every_s)
        self._looked_s = now_s
        self._silent = {
            lease: (beat, self._silence_s(lease, beat, passed_s=passed_s))
            for lease, beat in heartbeats.items()
        }

    def _silence_s(self, lease: Lease, beat: float, *, passed_s: float) -> float:
        before, silent_s = self._silent.get(lease, (None, 0.0))
        return silent_s + passed_s if before == beat else 0.0

    def is_silent(self, lease: Lease, heartbeat_at: float) -> bool:
        """Whether this heartbeat has been the last one for as long as a runner may be silent."""
        beat, silent_s = self._silent.get(lease, (None, 0.0))
        return beat == heartbeat_at and silent_s >= self._silent_after_s
