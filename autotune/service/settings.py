"""What whoever runs the service decides."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from autotune.core.paths import default_database
from autotune.core.types import Address


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """The most of each that anybody may have.

    `body_bytes` is of a JSON request, `upload_bytes` of one uploaded file, `uploaded_bytes` of all
    uploaded files together, `artefact_bytes` of all that one job writes, `runtime_s` of one
    attempt, `pause_s` between two parts of a request.
    """

    queued_jobs: int = 20_000
    body_bytes: int = 1_000_000
    upload_bytes: int = 64 << 30
    uploaded_bytes: int = 1 << 40
    artefact_bytes: int = 256 << 30
    runtime_s: float = 24 * 3600.0
    streams: int = 500
    pause_s: float = 20.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One server.

    `data` is the folder of jobs and uploads; servers that share a job database share it too.
    `model_roots` are the folders below which models and calibration files may be named,
    `hub_ids` the models that may be fetched by name. `slots` is how many jobs run at a time;
    a runner that was silent for `stale_s` has lost its job, which is tried `attempts` times.
    """

    data: Path
    job_database: Address
    latency_database: Address = field(default_factory=default_database)
    model_roots: tuple[Path, ...] = ()
    hub_ids: frozenset[str] = frozenset()
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    slots: int = 1
    threads: int | None = None
    heartbeat_s: float = 1.0
    stale_s: float = 15.0
    attempts: int = 5
    quotas: Quotas = field(default_factory=Quotas)
    server: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.urandom(3).hex()}")

    def job_folder(self, job_id: str) -> Path:
        """Where a job's log and artefacts are."""
        return self.data / "jobs" / job_id

    def run_folder(self, job_id: str) -> Path:
        """What a job hands out."""
        return self.job_folder(job_id) / "out"

    @property
    def uploads(self) -> Path:
        """Models that were uploaded, a folder each."""
        return self.data / "models"
