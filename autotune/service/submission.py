"""A job is refused when it is submitted rather than when it runs, as far as that can be known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.cli.job_options import DriftOptions, ExportOptions
from autotune.compress.locate import known_folder
from autotune.core.errors import AutotuneError, UsageError
from autotune.core.option_names import spell
from autotune.core.options_json import from_json
from autotune.core.types import canonical_json
from autotune.core.workload import Workload
from autotune.devices.specs import find_device
from autotune.layers.options import ProfileOptions, check_forms, chosen_forms, parse_shape
from autotune.service.errors import NotFoundError
from autotune.service.estimates import check_layers, check_model, check_workload
from autotune.service.inputs import resolve
from autotune.service.job_schema import SUCCEEDED
from autotune.service.jobs import JobDatabase
from autotune.service.schema import Spec, TakesFlatNames
from autotune.service.settings import Settings
from autotune.service.specs import KINDS, canonical
from autotune.tuning.machines import check_measurable, local_machine
from autotune.tuning.options import MachineOptions, check_cores
from autotune.tuning.request import TuneRequest

_MOST_CHARACTERS = 20_000  # of a specification as it is stored: a list has those of 500 jobs


def accept(
    settings: Settings, database: JobDatabase, *, kind: str, body: Spec
) -> tuple[str, dict[str, Any]]:
    """The device that a job is for, and its spec as it is stored.

    Raises:
        UsageError, DeviceMissingError: a value that cannot be used, under the name that it was
            given by.
    """
    try:
        spec = canonical(kind, body.model_dump(exclude_unset=True))
        _check_length(spec)
        return check_submission(settings, database, kind=kind, spec=spec), spec
    except AutotuneError as error:
        flat = isinstance(body, TakesFlatNames) and body.flat
        raise spell(error, "flat" if flat else "http", KINDS[kind].schema) from None


def _check_length(spec: Mapping[str, Any]) -> None:
    """Refuse a specification that would make every list of jobs long."""
    length = len(canonical_json(dict(spec)))
    if length > _MOST_CHARACTERS:
        raise UsageError(
            f"the specification of the job has {length:,} characters as JSON, more than the "
            f"{_MOST_CHARACTERS:,} allowed; use fewer or shorter values"
        )


def check_submission(
    settings: Settings, database: JobDatabase, *, kind: str, spec: Mapping[str, Any]
) -> str:
    """Refuse what cannot be done; the device that the job is for.

    Raises:
        UsageError, DeviceMissingError: a value that cannot be used.
    """
    found = resolve(settings, kind, spec=spec)
    run = found.pop("run", None)
    if kind == "tune":
        request = from_json(TuneRequest, {**found, "output": str(Path("out"))})
        machine = _as_run(settings, request.machine)
        dataclasses.replace(request, machine=machine).check()
        _check_size(settings, request)
        return machine.device
    options: object = from_json(KINDS[kind].schema, found)
    if isinstance(options, ProfileOptions | DriftOptions):
        _check_measuring(settings, options)
        return options.device
    if isinstance(options, ExportOptions):
        options.check()
    return _device_of_run(database, str(run))


def _check_size(settings: Settings, request: TuneRequest) -> None:
    """Refuse a model or a workload that cannot fit into the memory of a job."""
    limit = settings.quotas.memory_bytes
    if limit is not None:
        dtype = _dtype(request.machine)
        _check_fits(request.model, request.workload, limit_bytes=limit, dtype=dtype)


def _check_fits(model: str | None, workload: Workload, *, limit_bytes: int, dtype: str) -> None:
    folder = known_folder(model)
    if folder is not None:
        check_model(folder, limit_bytes)
    check_workload(folder, workload, limit_bytes=limit_bytes, dtype=dtype)


def _check_layers(settings: Settings, options: ProfileOptions) -> None:
    """Refuse layers that cannot fit into the memory of a job, where a job measures them."""
    limit, spec = settings.quotas.memory_bytes, find_device(options.device)
    if settings.farm or spec.kind != "cpu":
        limit = int(spec.memory_bytes)
    if limit is None:
        return
    dtype = _dtype(options)
    if options.model is not None:
        workload = Workload(batch_size=options.batch_size, sequence_length=options.isl)
        _check_fits(options.model, workload, limit_bytes=limit, dtype=dtype)
    layers = [parse_shape(shape, m) for shape in options.shapes for m in options.tokens]
    check_layers([dataclasses.replace(layer, dtype=dtype) for layer in layers], limit)


def _dtype(options: MachineOptions | ProfileOptions) -> str:
    return options.dtype or find_device(options.device).default_dtype


def _check_measuring(settings: Settings, options: ProfileOptions | DriftOptions) -> None:
    options.check()
    names = ("device", "backend", "dtype", "threads")
    machine = MachineOptions(**{name: getattr(options, name) for name in names})
    if isinstance(options, DriftOptions):  # checks the server's own devices only
        local_machine(machine).close()
        return
    if not settings.farm:
        check_cores(options.threads, "threads", schema=ProfileOptions)
    backend = check_measurable(_as_run(settings, machine))
    check_forms(chosen_forms(options.ranks, options.forms), backend, schema=ProfileOptions)
    _check_layers(settings, options)


def _as_run(settings: Settings, options: MachineOptions) -> MachineOptions:
    """The options with what the job's process will find in its environment."""
    return dataclasses.replace(
        options,
        database=settings.latency_database,
        farm=settings.farm,
        farm_token=settings.farm_token,
    )


def _device_of_run(database: JobDatabase, run: str) -> str:
    try:
        job = database.get(run)
    except NotFoundError as error:
        raise UsageError(f"job {run[:80]!r}: {error}") from None
    if job.state != SUCCEEDED or not KINDS[job.kind].writes:
        raise UsageError(
            f"job {run} is a {job.kind} job in state {job.state}; it must be a tuning or an "
            "export that succeeded"
        )
    return job.device
