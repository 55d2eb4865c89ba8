"""Run one claimed job: start its process, renew the lease, obey cancellation, store the result."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from autotune.core.errors import (
    AutotuneError,
    DatabaseUnreachableError,
    StorageError,
    fill_names,
)
from autotune.core.files import write_whole
from autotune.core.option_names import option_names
from autotune.core.options_json import at, merged
from autotune.service.errors import LeaseLostError
from autotune.service.inputs import resolve
from autotune.service.job_files import folder_bytes
from autotune.service.job_process import JobProcess
from autotune.service.job_records import Ending, Job, Lease
from autotune.service.jobs import JobDatabase
from autotune.service.settings import Settings
from autotune.service.specs import KINDS, arguments
from autotune.service.summary import summarise
from autotune.tuning.stored_request import typed

LOG = logging.getLogger(__name__)
_LISTEN_S = 0.2
_PAUSE_S = 1.0
_LOOK_S = 5.0
_WEIGH_S = 1.0
_AGAIN_S = 2.0
_BUSY_S = 10.0  # between two looks at a folder that another process is using
_T = TypeVar("_T")


class Runner:
    """Runs jobs one after the other; `stopping` ends it, and gives its job back."""

    def __init__(
        self, settings: Settings, database: JobDatabase, *, name: str, stopping: threading.Event
    ) -> None:
        self.settings, self.database, self.name, self.stopping = settings, database, name, stopping

    def run(self, job: Job) -> None:
        """From the claim to the last write."""
        lease = Lease(job_id=job.id, runner=self.name, attempt=job.attempt)
        try:
            ending = self._work(job, lease)
            if ending is not None:
                self._end(job, lease, ending=ending)
        except LeaseLostError as error:
            LOG.warning("%s", error)

    def _work(self, job: Job, lease: Lease) -> Ending | None:
        """The process from start to end; None where the job has been ended or given back here."""
        try:
            command = command_of(self.settings, job)
            folder = self.settings.job_folder(job.id)
            folder.mkdir(parents=True, exist_ok=True)
            process = JobProcess(
                command,
                folder,
                environment=environment_of(self.settings),
                memory_bytes=self.settings.quotas.memory_bytes,
            )
        except (AutotuneError, OSError) as error:
            return Ending(exit_code=getattr(error, "exit_code", 2), error=str(error))
        with process:
            return _named(self._watch(process, lease), job.kind)

    def _watch(self, process: JobProcess, lease: Lease) -> Ending | None:
        quotas, started, beaten, looked = self.settings.quotas, time.monotonic(), 0.0, 0.0
        weighed = 0.0
        while process.alive:
            for kind, text in process.listen(_LISTEN_S):
                self._try(lambda k=kind, t=text: self.database.note(lease, k, text=t))  # type: ignore[misc]
            now = time.monotonic()
            if now - beaten >= self.settings.heartbeat_s:
                beaten = now
                if self._try(lambda: self._beat(process, lease)):
                    process.stop()
                    ending = Ending(exit_code=130)
                    self._patiently(lambda e=ending: self.database.finish(lease, e, cancelled=True))  # type: ignore[misc]
                    return None
            if self.stopping.is_set():
                process.stop()
                self._try(
                    lambda: self.database.requeue(
                        lease, "its server is stopping", delay_s=0.0, give_back=True
                    )
                )
                return None
            if now - started > quotas.runtime_s:
                process.stop()
                return Ending(
                    exit_code=1, error=f"exceeded the {quotas.runtime_s:.0f} s limit of a job"
                )
            if now - weighed >= _WEIGH_S:
                weighed = now
                if (error := self._over_memory(process)) is not None:
                    process.kill()  # at once: it may grow by gigabytes in a second
                    return Ending(exit_code=1, error=error)
            if now - looked >= _LOOK_S:
                looked = now
                size = folder_bytes(process.folder)
                if size > quotas.artefact_bytes:
                    process.stop()
                    most = quotas.artefact_bytes
                    error = f"wrote {size} bytes, more than the limit of {most} bytes"
                    return Ending(exit_code=1, error=error)
        for kind, text in process.listen(0.0):
            self._try(lambda k=kind, t=text: self.database.note(lease, k, text=t))  # type: ignore[misc]
        return process.ending()

    def _over_memory(self, process: JobProcess) -> str | None:
        """What is wrong where the processes of a job together use more than it may."""
        most = self.settings.quotas.memory_bytes
        if most is None or (used := process.used_bytes) <= most:
            return None
        return (
            f"used {used / 1e9:.1f} GB of memory, more than the limit of {most / 1e9:.1f} GB for a "
            "job (--max-memory of the server); use a smaller batch, input length or model"
        )

    def _beat(self, process: JobProcess, lease: Lease) -> bool:
        return self.database.beat(lease, process.stage, done=process.done, total=process.total)

    def _end(self, job: Job, lease: Lease, *, ending: Ending) -> None:
        """A result, a failure, or another attempt.

        While its folder or device is in use the job waits. Once it has waited for as long as an
        attempt may take, each try counts as one.
        """
        free = ending.waits and job.waited_s < self.settings.quotas.runtime_s
        if free or (ending.again and job.attempt < self.settings.attempts):
            why = ending.error or "its process was interrupted"
            delay_s = _BUSY_S if ending.waits else _AGAIN_S * job.attempt
            self._patiently(
                lambda: self.database.requeue(
                    lease, why, delay_s=delay_s, give_back=free, busy=ending.waits
                )
            )
            return
        if ending.result is not None:
            ending = Ending(exit_code=ending.exit_code, result=summarise(job.kind, ending.result))
        elif ending.again:
            ending = Ending(
                exit_code=ending.exit_code,
                error=f"{ending.error}; limit of {job.attempt} attempts reached",
            )
        self._patiently(lambda: self.database.finish(lease, ending))

    def _try(self, write: Callable[[], _T]) -> _T | None:
        """A write that may fail, as the next one makes up for it."""
        try:
            return write()
        except (DatabaseUnreachableError, StorageError) as error:
            LOG.warning("%s", error)
            return None

    def _patiently(self, write: Callable[[], Any]) -> None:
        """A write that must not be lost: repeated until it succeeds or the server stops."""
        while True:
            try:
                write()
                return
            except (DatabaseUnreachableError, StorageError) as error:
                LOG.warning("%s", error)
                if self.stopping.wait(_PAUSE_S):
                    return  # the job is found silent and taken over


def _named(ending: Ending | None, kind: str) -> Ending | None:
    """The ending, its error naming options as the job's specification does."""
    if ending is None or ending.error is None:
        return ending
    names = option_names("http", KINDS[kind].schema)
    return dataclasses.replace(ending, error=fill_names(ending.error, names))


def command_of(settings: Settings, job: Job) -> list[str]:
    """The arguments of the command line that does the job; the request of a tuning is written.

    Raises:
        UsageError: it names a file that may not be read.
    """
    kind = KINDS[job.kind]
    spec = resolve(settings, job.kind, spec=job.spec)
    if job.kind == "tune":
        path = settings.job_folder(job.id) / "request.json"
        request = merged(spec, {"output": str(settings.run_folder(job.id))})
        if settings.threads and not at(spec, "machine.threads"):
            request = merged(request, {"machine": {"threads": settings.threads}})

        def write(file: Path) -> None:
            file.write_text(json.dumps(typed(request), indent=2))

        write_whole(path, write)
        return ["tune", f"--request={path}", "--json"]
    command = [*kind.path, *arguments(job.kind, spec)]
    if settings.threads and "threads" in spec and not spec["threads"]:
        command.append(f"--threads={settings.threads}")
    if kind.writes:
        command.append(f"--output={settings.run_folder(job.id)}")
    command.append("--json")
    if kind.of_a_run:
        command += ["--", str(settings.run_folder(str(spec["run"])))]
    return command


def environment_of(settings: Settings) -> dict[str, str]:
    """What a job's process finds in its environment: passwords and tokens are no arguments."""
    found = {
        "AUTOTUNE_DB": str(settings.latency_database),
        "AUTOTUNE_FARM": settings.farm or "",
        "PYTHONUNBUFFERED": "1",
    }
    if settings.farm_token:
        from autotune.farm.processes import TOKEN_VARIABLE

        found[TOKEN_VARIABLE] = settings.farm_token
    return found
