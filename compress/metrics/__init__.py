"""Metrics by name; an implementation is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.compress.metrics.base import Metric

__all__ = ["METRICS", "make_metric"]

METRICS = {
    "kfac-seq": "autotune.compress.metrics.kfac_seq:KfacSequence",
    "kfac": "autotune.compress.metrics.kfac:Kfac",
    "activation": "autotune.compress.metrics.activation:Activation",
    "weight": "autotune.compress.metrics.weight:Weight",
}


def make_metric(name: str) -> Metric:
    """The metric `name`.

    Raises:
        UsageError: an unknown name (the known ones are listed).
    """
    if name not in METRICS:
        raise UsageError(f"unknown metric {name!r}; known are {', '.join(METRICS)}")
    module, _, kind = METRICS[name].partition(":")
    metric: Metric = getattr(import_module(module), kind)()
    return metric
