"""What can be read of the jobs in a database; `autotune.service.jobs` adds what changes them."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import exc

from autotune.core.store.base import Store
from autotune.service.errors import NotFoundError
from autotune.service.job_ids import is_id
from autotune.service.job_records import Event, Job, Lease
from autotune.service.job_schema import EVENT, JOB, MIGRATIONS, RUNNING, STATES


class JobQueries(Store):
    """Reads jobs and their events, every call in a transaction of its own."""

    what = "job database"
    schema = len(MIGRATIONS)
    own_table = JOB.name

    def migrate(self, connection: sa.Connection, found: int) -> None:
        """The migrations that are missing."""
        for migrate in MIGRATIONS[found:]:
            migrate(connection)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            NotFoundError: no such job.
        """
        if not is_id(job_id):
            raise _no_such_job()
        with self.transaction() as connection:
            return one_job(connection, JOB.c.id == job_id)

    def page(
        self,
        *,
        states: Iterable[str] = (),
        kind: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """The newest first; `before` an id is the next page."""
        query = sa.select(JOB).order_by(JOB.c.id.desc()).limit(limit)
        if states:
            query = query.where(JOB.c.state.in_(list(states)))
        if kind:
            query = query.where(JOB.c.kind == kind)
        if before:
            query = query.where(JOB.c.id < before)
        with self.transaction() as connection:
            return [Job.of(dict(row._mapping)) for row in connection.execute(query)]

    def counts(self) -> dict[str, int]:
        """The number of jobs in every state that occurs."""
        query = sa.select(JOB.c.state, sa.func.count().label("jobs")).group_by(JOB.c.state)
        with self.transaction() as connection:
            found = {row.state: row.jobs for row in connection.execute(query)}
        return {state: int(found.get(state, 0)) for state in STATES}

    def revisions(self, job_ids: Iterable[str]) -> dict[str, int]:
        """The revision of each of the jobs that exists, by id."""
        query = sa.select(JOB.c.id, JOB.c.revision).where(JOB.c.id.in_(list(job_ids)))
        with self.transaction() as connection:
            return {row.id: row.revision for row in connection.execute(query)}

    def heartbeats(self) -> dict[Lease, float]:
        """The time of the last heartbeat of every running job."""
        columns = (JOB.c.id, JOB.c.runner, JOB.c.attempt, JOB.c.heartbeat_at)
        query = sa.select(*columns).where(JOB.c.state == RUNNING)
        with self.transaction() as connection:
            return {
                Lease(job_id=row.id, runner=row.runner or "", attempt=row.attempt): row.heartbeat_at
                for row in connection.execute(query)
            }

    def events(self, job_id: str, after: int = 0, *, limit: int = 1000) -> list[Event]:
        """Up to `limit` events of a job after event number `after`, oldest first."""
        query = sa.select(EVENT.c.number, EVENT.c.at, EVENT.c.kind, EVENT.c.text)
        query = query.where(EVENT.c.job_id == job_id, EVENT.c.number > after)
        query = query.order_by(EVENT.c.number).limit(limit)
        with self.transaction() as connection:
            return [Event(**row._mapping) for row in connection.execute(query)]


def one_job(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Job:
    """The only job that meets a condition.

    Raises:
        NotFoundError: there is none.
    """
    try:
        return Job.of(dict(connection.execute(sa.select(JOB).where(condition)).one()._mapping))
    except exc.NoResultFound:
        raise _no_such_job() from None


def _no_such_job() -> NotFoundError:
    return NotFoundError("no such job; `autotune jobs` lists them")
