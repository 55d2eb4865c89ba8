"""Judges of plans: in this process, in several here, or on the hosts of a farm; and the quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from safetensors.torch import save_file

from autotune.compress.calibration import CalibrationData
from autotune.compress.factors import FactorStore, Stored
from autotune.compress.inference import WEIGHTS
from autotune.compress.quality import dense_loss
from autotune.compress.tasks.base import Batch, Task
from autotune.core.errors import CalibrationError, foreign_code
from autotune.core.types import digest
from autotune.devices.detect import check_threads
from autotune.results.parts import Quality
from autotune.results.quality_verdict import LOSS
from autotune.search.evaluator import Evaluators, EvaluatorSetup
from autotune.search.evidence import Evidence
from autotune.search.judges import JudgePool
from autotune.search.losses import PlanLosses, SearchSubject
from autotune.tuning.compression import Compression
from autotune.tuning.machine import Machine
from autotune.tuning.model import TracedModel
from autotune.tuning.request import TuneRequest
from autotune.tuning.workspace import Workspace

_THREADS_PER_JUDGE = 4
# The model ran on example inputs before.
_NOT_RUN = (
    "the model does not run on the held-out data: <why>; give inputs of the shapes and values that "
    "it takes"
)


def make_judges(
    request: TuneRequest,
    machine: Machine,
    *,
    compression: Compression,
    data: CalibrationData,
    workspace: Workspace,
    dtype: str = WEIGHTS,
) -> AbstractContextManager[JudgePool | None]:
    """Processes that judge plans side by side, where there is more than one to use.

    `dtype` is the one that networks are run in (`NetworkDtype.judged_in`).

    Factors that are computed on demand live in this process only, so it judges their plans, as do
    layers of integers.
    """
    threads = check_threads(request.machine.threads)
    jobs = request.search.jobs or max(1, threads // _THREADS_PER_JUDGE)
    farm, factors = request.machine.farm, compression.factors
    store = factors.inner if isinstance(factors, Stored) else factors
    if (jobs == 1 and not farm) or not isinstance(store, FactorStore) or store.integers is not None:
        return nullcontext()
    setup = EvaluatorSetup(
        model=str(compression.model.loaded.folder),
        task=compression.model.loaded.task,
        sites=compression.model.single,
        joint=compression.model.joint,
        factors=str(store.path),
        storage=compression.storage,
        batches=str(_batches(compression, data, workspace=workspace)),
        dtype=dtype,
    )
    pool = machine.judges(setup)
    if pool is not None:
        workspace.note(f"plans are judged by the farm at {farm}")
        return pool
    return Evaluators(setup, jobs, threads=max(1, threads // jobs))


def _batches(compression: Compression, data: CalibrationData, *, workspace: Workspace) -> Path:
    """The batches that plans are judged on, as a file."""

    def save(path: Path) -> None:
        tensors = {
            f"{number}:{name}": tensor.contiguous()
            for number, batch in enumerate(data.search)
            for name, tensor in batch.items()
        }
        save_file(tensors, path)

    key = {**compression.model.key, "calibration": data.sha256}
    return workspace.file("search-batches", key, suffix=".safetensors", build=save)


def make_evidence(
    compression: Compression,
    data: CalibrationData,
    *,
    workspace: Workspace,
    judges: JudgePool | None = None,
    seed: int,
    dtype: str = WEIGHTS,
) -> Evidence:
    """What allocators may learn about the model run in `dtype`, on the search batches only."""
    model = compression.model
    subject = SearchSubject(
        model=model.loaded.model,
        task=model.task,
        sites=model.single,
        joint=model.joint,
        factors=compression.factors,
        batches=data.search,
        dtype=dtype,
    )
    key = digest([dict(compression.key), len(data.search), *([] if dtype == WEIGHTS else [dtype])])
    losses = PlanLosses(
        subject, folder=workspace.cache, key=key, judges=judges, note=workspace.note
    )
    return Evidence(losses, seed=seed, folder=workspace.cache, key=key)


def dense_heldout_loss(model: TracedModel, data: CalibrationData, *, workspace: Workspace) -> float:
    """The dense model's mean loss on held-out data, before anything long begins.

    Raises:
        CalibrationError: the data could not show what compression does to the model, or it does
            not run on them.
        ModelError: the model's output is not finite.
    """

    def compute() -> float:
        stage = workspace.stage("judge the dense model on held-out data")
        with foreign_code(_NOT_RUN, CalibrationError), stage as advance:
            return dense_loss(
                model.task, model.loaded.model, batches=data.heldout, progress=advance
            )

    found: float = workspace.value(
        "dense-quality", {**model.key, "data": data.sha256}, compute=compute
    )
    return found


def quality_of(task: Task, *, dense: float, compressed: float, batches: Sequence[Batch]) -> Quality:
    """The quality figures of two mean losses, or the losses themselves where a figure overflows."""
    figures = task.figure(dense), task.figure(compressed)
    if all(map(math.isfinite, figures)):
        metric, higher_is_better, protocol = task.metric, task.higher_is_better, ""
    else:
        figures, metric, higher_is_better = (dense, compressed), LOSS, False
        protocol = f"mean loss in nats, as {task.metric} overflows; "
    return Quality(
        metric=metric,
        dense=figures[0],
        compressed=figures[1],
        higher_is_better=higher_is_better,
        protocol=f"{protocol}{task.protocol(batches)}",
    )
