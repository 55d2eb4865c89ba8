"""Metrics by name; an implementation is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.core.registry import Registry, make

if TYPE_CHECKING:
    from autotune.compress.metrics.base import Metric

__all__ = ["METRICS", "make_metric"]

METRICS = Registry(
    "metric",
    "autotune.metrics",
    own={
        "kfac-seq": "autotune.compress.metrics.kfac_seq:KfacSequence",
        "kfac": "autotune.compress.metrics.kfac:Kfac",
        "activation": "autotune.compress.metrics.activation:Activation",
        "ledoit-wolf": "autotune.compress.metrics.ledoit_wolf:LedoitWolf",
        "asvd": "autotune.compress.metrics.asvd:Asvd",
        "dipsvd": "autotune.compress.metrics.dipsvd:DipSvd",
        "dipsvd-code": "autotune.compress.metrics.dipsvd:DipSvdCode",
        "weight": "autotune.compress.metrics.weight:Weight",
    },
)


def make_metric(spec: str) -> Metric:
    """The metric that `spec` names, such as `NAME` or `NAME:option=value`.

    Raises:
        UsageError: an unknown name or option (the known ones are listed).
    """
    metric: Metric = make(spec, METRICS)
    return metric
