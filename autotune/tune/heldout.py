"""Judge a finished result again on the held-out data that it was judged on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.core.errors import CalibrationError, ModelError
from autotune.core.progress import Reporter
from autotune.core.types import Workload, from_mapping


def judge_again(folder: Path, record: Mapping[str, Any], reporter: Reporter) -> float:
    """The quality figure of the run's checkpoint, against the dense model where that is needed.

    Raises:
        ModelError: the dense model is gone or another one now.
        CalibrationError: the data are gone or others now.
    """
    import torch

    from autotune.compress.calibration import load_calibration
    from autotune.compress.calibration_plan import CalibrationPlan
    from autotune.compress.loading import load_checkpoint, load_model
    from autotune.compress.locate import EMBEDDED_MODEL
    from autotune.compress.tasks import make_task

    name = record["model"]
    dense = load_model(None if name == EMBEDDED_MODEL else name)
    if dense.weights_sha256 != record["model_sha256"]:
        raise ModelError(f"{name} holds other weights than the model that was tuned")
    plan = from_mapping(CalibrationPlan, record["calibration"]["plan"])
    data = load_calibration(dense, plan, from_mapping(Workload, record["workload"]))
    if data.sha256 != record["calibration"]["sha256"]:
        raise CalibrationError("the calibration data are others than those of the tuning")
    task = make_task(dense.task, dense.folder)
    with reporter.stage("judge quality on held-out data"):
        references = task.references(dense.model, data.heldout)
        compressed = load_checkpoint(folder, torch.float32)
        return task.figure(task.mean_loss(compressed.model, data.heldout, references))
