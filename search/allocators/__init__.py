"""Allocators by name; an implementation is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.core.registry import Registry, make

if TYPE_CHECKING:
    from autotune.search.allocators.base import Allocator

__all__ = ["ALLOCATORS", "make_allocator"]

_HOME = "autotune.search.allocators"
# `exact+optuna` is `exact` inside the pipeline's search over the outer knobs.
ALLOCATORS = Registry(
    "allocator",
    "autotune.allocators",
    own={
        "exact+optuna": f"{_HOME}.exact:Exact",
        "exact": f"{_HOME}.exact:Exact",
        "uniform": f"{_HOME}.uniform:Uniform",
        "pgsvd": f"{_HOME}.pgsvd:Pgsvd",
        "flar": f"{_HOME}.flar:Flar",
        "dipsvd-heuristic": f"{_HOME}.dipsvd:DipsvdHeuristic",
        "dipsvd-bayes": f"{_HOME}.dipsvd:DipsvdBayes",
        "erc-plc": f"{_HOME}.erc_plc:ErcPlc",
        "dobi": f"{_HOME}.dobi:Dobi",
    },
)


def make_allocator(spec: str) -> Allocator:
    """The allocator that `spec` names, such as `NAME` or `NAME:option=value`.

    Raises:
        UsageError: an unknown name or option (the known ones are listed).
    """
    allocator: Allocator = make(spec, ALLOCATORS)
    return allocator
