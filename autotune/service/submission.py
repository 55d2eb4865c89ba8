"""A job is refused when it is submitted rather than when it runs, as far as that can be known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.core.errors import AutotuneError, UsageError
from autotune.core.option_names import spell
from autotune.core.options_json import from_json
from autotune.service.errors import NotFoundError
from autotune.service.inputs import resolve
from autotune.service.job_schema import SUCCEEDED
from autotune.service.jobs import JobDatabase
from autotune.service.schema import Spec, TakesFlatNames
from autotune.service.settings import Settings
from autotune.service.specs import KINDS, canonical
from autotune.tuning.request import TuneRequest


def accept(
    settings: Settings, database: JobDatabase, kind: str, body: Spec
) -> tuple[str, dict[str, Any]]:
    """The device that a job is for, and its spec as it is stored.

    Raises:
        UsageError, DeviceMissingError: a value that cannot be used, under the name that it was
            given by.
    """
    try:
        spec = canonical(kind, body.model_dump(exclude_unset=True))
        return check_submission(settings, database, kind, spec), spec
    except AutotuneError as error:
        flat = isinstance(body, TakesFlatNames) and body.flat
        raise spell(error, "flat" if flat else "http", KINDS[kind].schema) from None


def check_submission(
    settings: Settings, database: JobDatabase, kind: str, spec: Mapping[str, Any]
) -> str:
    """Refuse what cannot be done; the device that the job is for.

    Raises:
        UsageError, DeviceMissingError: a value that cannot be used.
    """
    found = resolve(settings, kind, spec)
    if kind == "tune":
        request = from_json(TuneRequest, {**found, "output": str(Path("out"))})
        machine = dataclasses.replace(request.machine, database=settings.latency_database)
        dataclasses.replace(request, machine=machine).check()
        return machine.device
    if kind in ("profile", "drift"):
        from autotune.tuning.machines import local_machine
        from autotune.tuning.options import MachineOptions

        names = ("device", "backend", "dtype")
        local_machine(MachineOptions(**{name: found[name] for name in names})).close()
    if KINDS[kind].of_a_run:
        return _device_of_run(database, str(spec["run"]))
    return str(found["device"])


def _device_of_run(database: JobDatabase, run: str) -> str:
    try:
        job = database.get(run)
    except NotFoundError as error:
        raise UsageError(f"run {run[:80]!r}: {error}") from None
    if job.state != SUCCEEDED or not KINDS[job.kind].writes:
        raise UsageError(
            f"run {run} is a {job.kind} job in state {job.state}; it must be a tuning or an "
            "export that succeeded"
        )
    return job.device
