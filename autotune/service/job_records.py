"""A job and its events, as they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.service.job_schema import ENDED
from autotune.service.specs import upgraded


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the job table; times are seconds since 1970 by the database's clock.

    `attempt` counts the times that it was started, `revision` rises with every change. `error` is
    there when and only when the job failed.
    """

    id: str
    kind: str
    spec: Mapping[str, Any]
    owner: str
    device: str
    state: str
    created_at: float
    not_before: float
    started_at: float | None
    finished_at: float | None
    attempt: int
    runner: str | None
    heartbeat_at: float | None
    cancel_requested: bool
    stage: str
    done: int
    total: int
    exit_code: int | None
    error: str | None
    result: Mapping[str, Any] | None
    revision: int
    events: int
    idempotency_key: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED

    @staticmethod
    def of(row: Mapping[str, Any]) -> Job:
        """From a row."""
        result = row["result"]
        return Job(**{
            **row, "spec": upgraded(row["kind"], json.loads(row["spec"])),
            "result": None if result is None else json.loads(result),
            "cancel_requested": bool(row["cancel_requested"]),
        })  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job; numbers count from 1 without a gap."""

    number: int
    at: float
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to write of a running job; lost when another runner took it over."""

    job_id: str
    runner: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job's process ended: a result, or the sentence that says why there is none.

    `again`: it says nothing of the job itself, so that another attempt may succeed.
    """

    exit_code: int
    result: Mapping[str, Any] | None = None
    error: str | None = None
    again: bool = False
