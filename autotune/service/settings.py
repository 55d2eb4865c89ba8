"""Settings of a server, chosen by its administrator."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from autotune.core.paths import default_database
from autotune.core.types import Address
from autotune.service.limits import ConnectionLimits


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """Limits of a server.

    `queued_jobs` limits the jobs that wait, `body_bytes` a JSON request, `upload_bytes` one
    uploaded file, `uploaded_bytes` all uploaded files together, `artefact_bytes` the folder of one
    job, `memory_bytes` the memory of one job (None: no limit), `runtime_s` one attempt at a job,
    `streams` the open event streams, `pause_s` the wait for the next part of a request. Of each of
    these, `queued_jobs_each`, `uploaded_bytes_each` and `streams_each` is what one user may have.
    Jobs and uploads are deleted `keep_jobs_days` and `keep_uploads_days` after they ended or were
    last added to, if these are set.
    """

    queued_jobs: int = 20_000
    queued_jobs_each: int = 16_000
    body_bytes: int = 1_000_000
    upload_bytes: int = 64 << 30
    uploaded_bytes: int = 1 << 40
    uploaded_bytes_each: int = (1 << 40) * 4 // 5
    artefact_bytes: int = 256 << 30
    memory_bytes: int | None = None
    runtime_s: float = 24 * 3600.0
    streams: int = 500
    streams_each: int = 100
    pause_s: float = 20.0
    keep_jobs_days: float | None = None
    keep_uploads_days: float | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one server.

    `data` is the folder for jobs and uploads; servers that share a job database share it too.
    `model_roots` are the folders of models and calibration files that jobs may read, `hub_ids` the
    hub models that they may download. `farm` is the farm that tunings and profiles use, with its
    token. `slots` is the number of jobs that run at a time. A runner without a heartbeat for
    `stale_s` seconds loses its job; a job is tried up to `attempts` times, and may lose its runner
    `losses` times.
    """

    data: Path
    job_database: Address
    latency_database: Address = field(default_factory=default_database)
    model_roots: tuple[Path, ...] = ()
    hub_ids: frozenset[str] = frozenset()
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    slots: int = 1
    threads: int | None = None
    farm: str | None = None
    farm_token: str | None = field(default=None, repr=False)
    heartbeat_s: float = 1.0
    stale_s: float = 15.0
    attempts: int = 5
    losses: int = 20
    quotas: Quotas = field(default_factory=Quotas)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    server: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.urandom(3).hex()}")

    def job_folder(self, job_id: str) -> Path:
        """The folder of a job's log and output."""
        return self.data / "jobs" / job_id

    def run_folder(self, job_id: str) -> Path:
        """The folder of a job's output files."""
        return self.job_folder(job_id) / "out"

    @property
    def uploads(self) -> Path:
        """The folder of uploaded models, with one folder for each."""
        return self.data / "models"
