"""Factorizers by name; an implementation is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.core.registry import Registry, make

if TYPE_CHECKING:
    from autotune.compress.factorizers.base import Factorizer

__all__ = ["FACTORIZERS", "make_factorizer"]

_HOME = "autotune.compress.factorizers"
FACTORIZERS = Registry(
    "factorizer",
    "autotune.factorizers",
    own={
        "svd": f"{_HOME}.truncated:Truncated",
        "als": f"{_HOME}.als:Als",
        "residual": f"{_HOME}.residual:Residual",
        "output-subspace": f"{_HOME}.output_subspace:OutputSubspace",
    },
)


def make_factorizer(spec: str) -> Factorizer:
    """The factorizer that `spec` names, such as `NAME` or `NAME:option=value`.

    Raises:
        UsageError: an unknown name or option (the known ones are listed).
    """
    factorizer: Factorizer = make(spec, FACTORIZERS)
    return factorizer
