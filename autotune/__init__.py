"""lowrank-autotune: low-rank compression of transformers models under a measured latency budget.

Importing this package loads neither torch nor transformers; names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autotune.hook import register_with_transformers
from autotune.version import __version__

if TYPE_CHECKING:
    from autotune.api import tune
    from autotune.result import TuneResult
    from autotune.types import Budget, Workload

__all__ = ["Budget", "TuneResult", "Workload", "__version__", "tune"]

_HOMES = {
    "tune": "autotune.api",
    "TuneResult": "autotune.result",
    "Budget": "autotune.types",
    "Workload": "autotune.types",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autotune' has no attribute {name!r}")


register_with_transformers()
