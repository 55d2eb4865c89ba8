"""What a user asks for, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from autotune.compress.calibration import CalibrationPlan
from autotune.errors import UsageError
from autotune.paths import default_database
from autotune.types import Budget, Workload


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """Everything one tuning run depends on.

    `metric` None lets the task choose; `trials` are Optuna's (0 = the exact plan as it is);
    `rounds` bounds the closed loop; `margin` is how far below the latency limit to aim.
    """

    model: str | None
    output: Path
    budget: Budget
    device: str = "cpu"
    backend: str = "onnxruntime-cpu"
    workload: Workload = field(default_factory=Workload)
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    metric: str | None = None
    trials: int = 24
    rounds: int = 3
    margin: float = 0.01
    threads: int | None = None
    targets: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    database: Path = field(default_factory=default_database)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise UsageError(f"--trials {self.trials}: 0 (no search) or more")
        if not 1 <= self.rounds <= 10:
            raise UsageError(f"--rounds {self.rounds}: 1 to 10")
