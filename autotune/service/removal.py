"""Deleting jobs and folders: at once out of sight, then piece by piece."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from autotune.core.errors import storage_errors
from autotune.service.errors import ConflictError
from autotune.service.job_queries import JobQueries, one_job
from autotune.service.job_schema import ENDED, EVENT, JOB, QUEUED, RUNNING
from autotune.service.settings import Settings

_REMOVED = ".removed-"


def users_of(database: JobQueries, name: str) -> list[str]:
    """Ids of queued and running jobs whose specification names a job or an upload."""
    query = sa.select(JOB.c.id).where(_uses(name)).order_by(JOB.c.id).limit(10)
    with database.transaction() as connection:
        return list(connection.execute(query).scalars())


def remove_job(settings: Settings, database: JobQueries, *, job_id: str) -> None:
    """Delete a job that has ended, with its events, log and results.

    Raises:
        NotFoundError: no such job.
        ConflictError: it has not ended, or a job that has not ended needs its results.
    """
    with database.transaction() as connection:
        job = one_job(connection, JOB.c.id == job_id)
        user = connection.execute(sa.select(JOB.c.id).where(_uses(job_id)).limit(1)).scalar()
        if user is not None:
            raise ConflictError(f"job {user} uses the results of job {job_id}; wait for it to end")
        gone = JOB.delete().where(JOB.c.id == job_id, JOB.c.state.in_(ENDED))
        connection.execute(EVENT.delete().where(EVENT.c.job_id == job_id))
        if not connection.execute(gone).rowcount:
            raise ConflictError(f"job {job_id} is {job.state}; cancel it and wait for its end")
    remove_folder(settings.job_folder(job_id))


def old_jobs(database: JobQueries, days: float, *, most: int = 1000) -> list[str]:
    """Ids of the jobs that ended so many days ago, the oldest first."""
    before = database.dialect.now() - days * 86_400
    query = sa.select(JOB.c.id).where(JOB.c.state.in_(ENDED), JOB.c.finished_at < before)
    with database.transaction() as connection:
        return list(connection.execute(query.order_by(JOB.c.id).limit(most)).scalars())


def remove_folder(folder: Path) -> None:
    """Delete a folder: it disappears at once, whole, even if deleting takes long or is cut off."""
    with storage_errors(folder), suppress(FileNotFoundError):
        delete(set_aside(folder))


def set_aside(folder: Path) -> Path:
    """Rename a folder to what is deleted by `finish_removals` if nobody else does; its new path."""
    aside = folder.with_name(f"{_REMOVED}{folder.name}-{os.urandom(4).hex()}")
    return folder.rename(aside)


def finish_removals(parent: Path) -> None:
    """Delete what a server that was killed had begun to delete."""
    for path in parent.glob(f"{_REMOVED}*"):
        with suppress(OSError):
            delete(path)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def _uses(name: str) -> sa.ColumnElement[bool]:
    """Whether a job that has not ended names it; specifications are stored as JSON text."""
    named = JOB.c.spec.contains(f'"{name}"', autoescape=True)
    return sa.and_(JOB.c.state.in_([QUEUED, RUNNING]), named)
