"""Judges of plans: in this process, in several here, or on the hosts of a farm."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from safetensors.torch import save_file

from autotune.compress.calibration import CalibrationData
from autotune.compress.factors import FactorStore, Stored
from autotune.core.types import digest
from autotune.devices.detect import check_threads
from autotune.search.evaluator import Evaluators, EvaluatorSetup
from autotune.search.evidence import Evidence
from autotune.search.judges import JudgePool
from autotune.search.losses import PlanLosses, SearchSubject
from autotune.tuning.compression import Compression
from autotune.tuning.machine import Machine
from autotune.tuning.request import TuneRequest
from autotune.tuning.workspace import Workspace

_THREADS_PER_JUDGE = 4


def make_judges(
    request: TuneRequest,
    machine: Machine,
    *,
    compression: Compression,
    data: CalibrationData,
    workspace: Workspace,
) -> AbstractContextManager[JudgePool | None]:
    """Processes that judge plans side by side, where there is more than one to use.

    Factors that are computed on demand live in this process only, so it judges their plans.
    """
    threads = check_threads(request.machine.threads)
    jobs = request.search.jobs or max(1, threads // _THREADS_PER_JUDGE)
    farm, factors = request.machine.farm, compression.factors
    store = factors.inner if isinstance(factors, Stored) else factors
    if (jobs == 1 and not farm) or not isinstance(store, FactorStore):
        return nullcontext()
    setup = EvaluatorSetup(
        model=str(compression.model.loaded.folder),
        task=compression.model.loaded.task,
        sites=compression.model.single,
        joint=compression.model.joint,
        factors=str(store.path),
        storage=compression.storage,
        batches=str(_batches(compression, data, workspace=workspace)),
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
    judges: JudgePool | None,
    seed: int,
) -> Evidence:
    """What allocators may learn about the model, on the search batches only."""
    model = compression.model
    subject = SearchSubject(
        model=model.loaded.model,
        task=model.task,
        sites=model.single,
        joint=model.joint,
        factors=compression.factors,
        batches=data.search,
    )
    key = digest([dict(compression.key), len(data.search)])
    losses = PlanLosses(
        subject, folder=workspace.cache, key=key, judges=judges, note=workspace.note
    )
    return Evidence(losses, seed=seed, folder=workspace.cache, key=key)
