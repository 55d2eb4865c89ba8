"""What of a command's JSON is kept with the job; the whole of it is among its artefacts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TUNE = (
    "model", "backend", "dtype", "budget", "workload", "within_budget", "measured_ratio",
    "measured_ratio_low", "measured_ratio_high", "predicted_ratio", "measured_latency_s",
    "predicted_latency_s", "dense_latency_s", "quality", "parameters", "stored_bytes", "cost",
)  # fmt: skip


def summarise(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a tuning without its sites and tables; of other kinds everything."""
    if kind == "tune":
        return {key: record[key] for key in _TUNE}
    return dict(record)
