"""Seconds of summing a tensor over several devices, from third-party tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autotune.core.errors import UsageError, option_name
from autotune.profiler.sources.aiconfigurator_allreduce import read_all_reduces

if TYPE_CHECKING:
    import pandas as pd


class AllReduceLatency:
    """All-reduces over `count` devices of one kind.

    Raises:
        UsageError: no table has so many of the device.
    """

    def __init__(self, device: str, count: int) -> None:
        rows = read_all_reduces(device)
        counts = sorted({int(each) for each in rows["devices"]})
        if count not in counts:
            known = ", ".join(map(str, counts)) or "none"
            raise UsageError(
                f"{option_name('tensor_parallel')} {count}: how long {device} takes for a sum over "
                f"so many is not known; numbers with a table: {known}"
            )
        own = rows[rows["devices"] == count]
        self._stacks = [one.sort_values("values") for _, one in own.groupby("stack")]

    def seconds(self, values: int) -> tuple[float, float]:
        """Seconds of a tensor of so many elements, and the 90 % half width in log.

        The median over stacks, each interpolated in log; the half width is the largest distance of
        a stack from it.
        """
        found = [_interpolate(stack, values) for stack in self._stacks]
        middle = float(np.median(found))
        return math.exp(middle), max(abs(each - middle) for each in found)


def _interpolate(rows: pd.DataFrame, values: int) -> float:
    """Log seconds; beyond the largest tensor they grow with its size."""
    sizes: Sequence[float] = np.log(rows["values"].to_numpy(dtype=np.float64)).tolist()
    seconds: Sequence[float] = np.log(rows["latency_s"].to_numpy(dtype=np.float64)).tolist()
    beyond = max(0.0, math.log(values) - sizes[-1])
    return float(np.interp(math.log(values), sizes, seconds)) + beyond
