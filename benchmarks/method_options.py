"""The rows of benchmarks/methods.py: the methods of the five papers and our own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from autotune.tuning.options import MethodOptions
from autotune.tuning.request import TuneRequest


@dataclass(frozen=True, kw_only=True)
class Method:
    """The options of one row: those of the method, and of the search where they differ.

    Methods are compared by the ranks that they choose, so all stay in the model's own precision.
    """

    metric: str | None = None
    factorizer: str = "svd"
    allocator: str | None = None
    storage: str = "fp32"
    factors: str = "plain"
    precision: str = "native"
    joint: bool = True
    sensitivity_rounds: int | None = None
    trials: int | None = None

    def applied(self, request: TuneRequest) -> TuneRequest:
        """The request with these options."""
        method = MethodOptions(
            metric=self.metric,
            factorizer=self.factorizer,
            allocator=self.allocator,
            storage=self.storage,
            factors=self.factors,
            precision=self.precision,
            joint=self.joint,
        )
        given: dict[str, Any] = {
            "sensitivity_rounds": self.sensitivity_rounds,
            "trials": self.trials,
        }
        search = {name: value for name, value in given.items() if value is not None}
        return replace(request, method=method, search=replace(request.search, **search))


def exact(metric: str, sensitivity_rounds: int = 0) -> Method:
    """The exact solver on the errors of one metric."""
    return Method(metric=metric, allocator="exact", sensitivity_rounds=sensitivity_rounds)


METHODS: dict[str, Method] = {
    "svd uniform": Method(metric="weight", allocator="uniform"),
    "svd-llm": Method(metric="activation", allocator="uniform"),
    "asvd": Method(metric="asvd", allocator="uniform"),
    "pgsvd": Method(metric="activation", factorizer="als", allocator="pgsvd"),
    "dobi": Method(metric="activation", factorizer="output-subspace", allocator="dobi"),
    "dipsvd heuristic": Method(metric="dipsvd", allocator="dipsvd-heuristic"),
    "dipsvd bayes": Method(metric="dipsvd", allocator="dipsvd-bayes:trials=60"),
    "flar": Method(metric="ledoit-wolf", allocator="flar"),
    "erc": Method(metric="activation", factorizer="residual", allocator="erc-plc"),
    "exact on activation": exact("activation"),
    "exact on kfac": exact("kfac"),
    "exact on kfac-seq": exact("kfac-seq"),
    "exact sensitivity": exact("kfac", sensitivity_rounds=1),
    "default not joint": Method(joint=False),
    "default plain": Method(),
    "default": Method(factors="auto"),
}
