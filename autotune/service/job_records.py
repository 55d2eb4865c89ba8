"""Records of a job and its events, as read from the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autotune.service.job_schema import ENDED
from autotune.service.specs import upgraded


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the job table; times are seconds since 1970 by the database's clock.

    `attempt` counts how often the job was started, less what was given back; `revision` rises with
    every change. `error` is set if and only if the job failed. `busy_since`: when its folder or
    device was first found in use, since the last attempt that found both free.
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
    busy_since: float | None = None

    @property
    def waited_s(self) -> float:
        """For how long, until it was claimed, another process had its folder or device."""
        if self.busy_since is None or self.heartbeat_at is None:
            return 0.0
        return self.heartbeat_at - self.busy_since

    @property
    def ended(self) -> bool:
        """Whether the job has reached a final state."""
        return self.state in ENDED

    @staticmethod
    def of(row: Mapping[str, Any]) -> Job:
        """The job in a row of the job table."""
        result = row["result"]
        return Job(
            **{
                **row,
                "spec": upgraded(row["kind"], _object(row["spec"])),
                "result": None if result is None else _object(result),
                "cancel_requested": bool(row["cancel_requested"]),
            }
        )


def _object(text: str) -> dict[str, Any]:
    """The JSON object in a column; a damaged one must not hide the other jobs of a list."""
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {"damaged": text[:1000]}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job; a job's events are numbered from 1 without gaps."""

    number: int
    at: float
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to update a running job; lost once another runner has taken the job over."""

    job_id: str
    runner: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job's process ended: with a result, or with the message that explains the failure.

    `again`: the cause lies outside the job itself, so another attempt may succeed. `waits`: another
    process still has its folder, so that this was no attempt.
    """

    exit_code: int
    result: Mapping[str, Any] | None = None
    error: str | None = None
    again: bool = False
    waits: bool = False
