"""lowrank-autotune: low-rank compression of transformers models under a measured latency budget.

Importing this package loads neither torch nor transformers; names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autotune.compress.hook import register_with_transformers
from autotune.core.version import __version__

if TYPE_CHECKING:
    from autotune.api import tune
    from autotune.compress.calibration_plan import CalibrationPlan
    from autotune.core.types import Budget, Workload
    from autotune.export.dense import merge
    from autotune.export.onnx import export_onnx
    from autotune.export.tensorrt import export_tensorrt
    from autotune.layers.estimator import LatencyPredictor
    from autotune.layers.network_prediction import predict_model
    from autotune.layers.predict import predict
    from autotune.layers.profiling import profile
    from autotune.results.result import TuneResult
    from autotune.tuning.bench import bench
    from autotune.tuning.options import MachineOptions, MethodOptions, SearchOptions
    from autotune.tuning.request import TuneOptions
    from autotune.tuning.verify import verify

__all__ = [
    "Budget",
    "CalibrationPlan",
    "LatencyPredictor",
    "MachineOptions",
    "MethodOptions",
    "SearchOptions",
    "TuneOptions",
    "TuneResult",
    "Workload",
    "__version__",
    "bench",
    "export_onnx",
    "export_tensorrt",
    "merge",
    "pick",
    "predict",
    "predict_model",
    "profile",
    "tune",
    "verify",
]

_HOMES = {
    "tune": "autotune.api",
    "bench": "autotune.tuning.bench",
    "pick": "autotune.tuning.picking",
    "verify": "autotune.tuning.verify",
    "merge": "autotune.export.dense",
    "predict": "autotune.layers.predict",
    "predict_model": "autotune.layers.network_prediction",
    "profile": "autotune.layers.profiling",
    "LatencyPredictor": "autotune.layers.estimator",
    "export_onnx": "autotune.export.onnx",
    "export_tensorrt": "autotune.export.tensorrt",
    "TuneResult": "autotune.results.result",
    "Budget": "autotune.core.types",
    "Workload": "autotune.core.types",
    "TuneOptions": "autotune.tuning.request",
    "MachineOptions": "autotune.tuning.options",
    "MethodOptions": "autotune.tuning.options",
    "SearchOptions": "autotune.tuning.options",
    "CalibrationPlan": "autotune.compress.calibration_plan",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autotune' has no attribute {name!r}")


register_with_transformers()
