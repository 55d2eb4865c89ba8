"""Judge a finished tuning again on the held-out data that it was judged on."""

from __future__ import annotations

from pathlib import Path

from autotune.core.errors import CalibrationError, ModelError
from autotune.core.progress import Reporter
from autotune.results.quality_verdict import LOSS
from autotune.results.record import TuneRecord


def judge_again(folder: Path, record: TuneRecord, *, reporter: Reporter) -> float:
    """The quality figure of the checkpoint in a run folder, on the data of the tuning.

    Raises:
        ModelError: the dense model is missing, or its weights have changed.
        CalibrationError: the data are missing or have changed.
    """
    import torch

    from autotune.compress.calibration import load_calibration
    from autotune.compress.inference import WEIGHTS, running_in
    from autotune.compress.loading import load_checkpoint, load_model
    from autotune.compress.locate import EMBEDDED_MODEL
    from autotune.compress.quality import judged
    from autotune.compress.tasks import make_task

    dense = load_model(None if record.model == EMBEDDED_MODEL else record.model)
    if dense.weights_sha256 != record.model_sha256:
        raise ModelError(
            f"the weights of {record.model} differ from those that were tuned; restore them, or "
            "run the tuning again"
        )
    data = load_calibration(dense, record.calibration.plan, workload=record.workload)
    if data.sha256 != record.calibration.sha256:
        raise CalibrationError(
            "the calibration data differ from those of the tuning; restore them, or run the "
            "tuning again"
        )
    task = make_task(dense.task, dense.folder)
    with reporter.stage("judge quality on held-out data"):
        references = task.references(dense.model, data.heldout)
        model = load_checkpoint(folder, torch.float32).model
        with running_in(record.runtime_dtype or WEIGHTS):
            loss = judged(task, model, batches=data.heldout, references=references).loss
    return loss if record.quality.metric == LOSS else task.figure(loss)
