"""A job is refused when it is submitted, as far as that can be known, and not when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.core.errors import UsageError
from autotune.service.errors import NotFoundError
from autotune.service.inputs import resolve
from autotune.service.job_schema import SUCCEEDED
from autotune.service.jobs import JobDatabase
from autotune.service.settings import Settings
from autotune.service.specs import KINDS


def check_submission(
    settings: Settings, database: JobDatabase, kind: str, spec: Mapping[str, Any]
) -> str:
    """Refuse what cannot be done; the device that the job is of.

    Raises:
        UsageError, DeviceMissingError: a value that cannot be used.
    """
    found = resolve(settings, kind, spec)
    if kind == "tune":
        from autotune.cli.tune import tune_request

        extra = {"database": settings.latency_database, "output": Path("out"), "quiet": True}
        tune_request({**found, **extra}).check()
    if kind in ("profile", "drift"):
        from autotune.tune.machines import local_machine
        from autotune.tune.options import MachineOptions

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
            f"run {run} is a {job.kind} job that {job.state}; give a tuning or export that "
            "succeeded"
        )
    return job.device
