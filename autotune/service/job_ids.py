"""Ids of jobs: they sort by the order of submission, whatever the clocks are set to."""

from __future__ import annotations

import os
import re
import time

import sqlalchemy as sa

from autotune.service.job_schema import JOB

_ID = re.compile("[0-9a-f]{20}")


def is_id(text: str) -> bool:
    """Whether a job may have this id: PostgreSQL refuses to look for a text with NUL."""
    return _ID.fullmatch(text) is not None


def new_id(after: str = "") -> str:
    """An id that sorts by creation time, and behind the id `after` whatever the clock is set to.

    12 digits of milliseconds, and 8 random ones that separate the ids of one millisecond.
    """
    now_ms = time.time_ns() // 1_000_000
    if after:
        now_ms = max(now_ms, int(after[:12], 16) + 1)
    return f"{now_ms:012x}{os.urandom(4).hex()}"


def behind_all_others(connection: sa.Connection, job_id: str) -> str:
    """Give a job that was just added the largest id; a clock that was set back gave it another.

    The insertion has taken SQLite's write lock, so that no other job comes between.
    """
    others = sa.select(JOB.c.id).where(JOB.c.id != job_id).order_by(JOB.c.id.desc()).limit(1)
    last = connection.execute(others).scalar()
    if last is None or last < job_id:
        return job_id
    behind = new_id(after=last)
    connection.execute(JOB.update().where(JOB.c.id == job_id).values(id=behind))
    return behind
