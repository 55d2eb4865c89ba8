"""What to calibrate on; light, so that a request can be checked before anything heavy loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """Calibration files and sizes. Sizes are in sequences; None lets the task choose.

    `calibration` and `evaluation` are text files (one document a line) or .safetensors files of
    input tensors; without `evaluation` the held-out part is cut from `calibration`.
    """

    calibration: str | None = None
    evaluation: str | None = None
    statistics_samples: int | None = None
    search_samples: int | None = None
    heldout_samples: int | None = None
    seed: int = 0
