"""How many layer timings of a tuning settled, and how busy the host was."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerTimings:
    """Of the `total` layers that were measured, the number that `settled`.

    `load` is the host's load average over the minute before the tuning began and `cores` those that
    it may use; None where the device is not this host's.
    """

    settled: int
    total: int
    load: float | None
    cores: int | None

    @property
    def text(self) -> str:
        """How many settled, and the load where it is known."""
        load = self._load
        return f"{self.settled} of {self.total} layer timings settled" + (load and f"; {load}")

    @property
    def warning(self) -> str | None:
        """A sentence about those that did not settle; None where all did."""
        left, load = self.total - self.settled, self._load
        if not left:
            return None
        return (
            f"{left} of {self.total} layer timings did not settle"
            + (load and f" ({load})")
            + "; they count less than their neighbours. The same command measures them again "
            "unless this run meets its budget; with --remeasure it does so in any case"
        )

    @property
    def _load(self) -> str:
        return "" if self.load is None else f"load {self.load:.1f} on {self.cores} cores"
