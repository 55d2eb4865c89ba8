"""Seconds of attention kernels on a device, learned from third-party tables of it.

Boosting on log(latency / roofline), where the roofline counts two products and one pass over
queries, keys, values and outputs; intervals are split-conformal over whole (batch, keys) groups.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from autotune.core.operation import Operation
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.predictor.learning.fit_cache import Fit, kept_fit
from autotune.profiler.sources.aiconfigurator_attention import (
    SHAPE,
    attention_files,
    read_attention,
)

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

Array = NDArray[np.float64]
# Without a table: kernels reach a third of a roofline or more, rarely two thirds.
_UNKNOWN_UTILISATION, _UNKNOWN_FACTOR = 0.45, 1.8
_FIT_ROWS, _LEAST_ROWS = 20000, 100


class AttentionLatency:
    """Attention of one device and dtype."""

    def __init__(self, spec: DeviceSpec, dtype: str) -> None:
        self.spec, self.dtype = spec, dtype
        self._model: HistGradientBoostingRegressor | None = None
        self.half_width = math.log(_UNKNOWN_FACTOR)
        if files := [file for _, file in attention_files(spec.name, dtype)]:
            made_from = {"attention": spec.name, "dtype": dtype, "files": _digest(files)}
            fit = kept_fit(made_from, lambda: self._fit(read_attention(spec.name, dtype)))
            if fit:
                self._model, self.half_width = fit["model"], float(fit["half_width"])

    @property
    def source(self) -> str:
        """Where its numbers come from."""
        return "third-party attention tables" if self._model else "a roofline of attention"

    def seconds(self, operations: Sequence[Operation]) -> Array:
        """Seconds of each, (n,); off by `half_width` in log at 90 %."""
        if not operations:
            return np.empty(0)
        shapes = pd.DataFrame([[getattr(o, name) for name in SHAPE] for o in operations])
        shapes.columns = pd.Index(SHAPE)
        base = _roofline_s(shapes, self.spec, dtype=self.dtype)
        if self._model is None:
            return np.asarray(base / _UNKNOWN_UTILISATION)
        with threadpool_limits(1):
            found: Array = base * np.exp(self._model.predict(_features(shapes, base)))
        return found

    def _fit(self, rows: pd.DataFrame) -> Fit:
        """The model and its half width; nothing where there is too little to learn from."""
        if len(rows) < _LEAST_ROWS:
            return {}
        rows = rows.sample(min(len(rows), _FIT_ROWS), random_state=0)
        base = _roofline_s(rows, self.spec, dtype=self.dtype)
        features, target = _features(rows, base), np.log(rows["latency_s"].to_numpy() / base)
        groups = pd.factorize(pd.MultiIndex.from_frame(rows[["batch", "keys"]]))[0]
        held = np.random.default_rng(0).permutation(groups.max() + 1)[groups] % 5 == 0
        with threadpool_limits(1):
            trial = _new_model().fit(features[~held], target[~held])
            errors = np.abs(trial.predict(features[held]) - target[held])
            model = _new_model().fit(features, target)
        return {"model": model, "half_width": conformal_quantile(errors, 0.9)}


def _digest(files: Sequence[Path]) -> str:
    """Of the files as they are: to read them as tables takes half a second."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()


def _new_model() -> HistGradientBoostingRegressor:
    # Only here: it takes two seconds to import, and runs that measure need none of it.
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        max_iter=200, learning_rate=0.1, early_stopping=False, random_state=0
    )


def _roofline_s(rows: pd.DataFrame, spec: DeviceSpec, *, dtype: str) -> Array:
    flops, moved = _work(rows, dtype)
    return np.maximum(flops / spec.peak_flops[dtype], moved / spec.bandwidth_bytes_s)


def _work(rows: pd.DataFrame, dtype: str) -> tuple[Array, Array]:
    """FLOPs and bytes of each row."""
    b, q, k, h, kv, d = (rows[name].to_numpy(dtype=np.float64) for name in SHAPE[:6])
    flops = 4 * b * h * q * k * d / np.where(rows["causal"].to_numpy(dtype=bool), 2, 1)
    return flops, DTYPE_BYTES[dtype] * b * d * (2 * h * q + 2 * kv * k)


def _features(rows: pd.DataFrame, base: Array) -> Array:
    logs = [np.log(rows[name].to_numpy(dtype=np.float64)) for name in SHAPE[:6]]
    causal = rows["causal"].to_numpy(dtype=np.float64)
    parallel = np.log(rows["batch"].to_numpy(dtype=np.float64) * rows["heads"].to_numpy())
    return np.column_stack([*logs, causal, parallel, np.log(base)])
