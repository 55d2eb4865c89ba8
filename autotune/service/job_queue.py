"""The queue of the job table: jobs are submitted, and claimed by runners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from autotune.core.text import printable
from autotune.core.types import canonical_json
from autotune.service.errors import ConflictError, QuotaError
from autotune.service.job_ids import behind_all_others, new_id
from autotune.service.job_queries import JobQueries, one_job
from autotune.service.job_records import Job
from autotune.service.job_schema import EVENT, JOB, QUEUED, RUNNING
from autotune.service.specs import upgraded

# A job that is put back starts again within this time; if it is due later, a clock was set back.
_LONGEST_DELAY_S = 60.0


class JobQueue(JobQueries):
    """Jobs from their submission until a runner has them; owners take turns."""

    def submit(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        device: str,
        owner: str = "",
        idempotency_key: str | None = None,
        most_queued: int | None = None,
        most_queued_each: int | None = None,
    ) -> tuple[Job, bool]:
        """Put a job in the queue; and whether it is new, or was there under the idempotency key.

        Raises:
            ConflictError: the key was used for another job.
            QuotaError: `most_queued` jobs are waiting, or `most_queued_each` of this owner.
        """
        now, job_id = self.dialect.now(), new_id()
        insert = self.dialect.insert(JOB).values(
            id=job_id,
            kind=kind,
            spec=canonical_json(dict(spec)),
            owner=owner,
            device=device,
            idempotency_key=idempotency_key,
            state=QUEUED,
            created_at=now,
            not_before=0.0,
            attempt=0,
            cancel_requested=0,
            stage="",
            done=0,
            total=0,
            revision=0,
            events=0,
        )
        with self.transaction() as connection:
            made = connection.execute(
                insert.on_conflict_do_nothing(
                    index_elements=["owner", "idempotency_key"]
                ).returning(JOB.c.id)
            ).first()
            if made is None:
                same = sa.and_(JOB.c.owner == owner, JOB.c.idempotency_key == idempotency_key)
                found = one_job(connection, same)
                if found.kind != kind or found.spec != upgraded(kind, dict(spec)):
                    raise ConflictError(
                        f"idempotency key {idempotency_key!r} belongs to job {found.id}, which "
                        "asks for something else; use a new key"
                    )
                return found, False
            _check_room(connection, owner, most=most_queued, each=most_queued_each)
            job_id = behind_all_others(connection, job_id)
            self._event(connection, job_id, kind="state", text=QUEUED)
            return one_job(connection, JOB.c.id == job_id), True

    def claim(self, runner: str) -> Job | None:
        """A job that may start, now `runner`'s; None when there is none.

        It is the oldest one of the owner who has waited longest since a job of theirs started.
        """
        now = self.dialect.now()
        turn = (
            sa.select(JOB.c.owner, sa.func.max(JOB.c.started_at).label("at"))
            .group_by(JOB.c.owner)
            .subquery()
        )
        next_one = (
            sa.select(JOB.c.id)
            .join(turn, turn.c.owner == JOB.c.owner)
            .where(
                JOB.c.state == QUEUED,
                sa.or_(JOB.c.not_before <= now, JOB.c.not_before > now + _LONGEST_DELAY_S),
            )
            .order_by(sa.func.coalesce(turn.c.at, 0.0), JOB.c.id)
            .limit(1)
            .with_for_update(of=JOB, skip_locked=True)
            .scalar_subquery()
        )
        take = (
            JOB.update()
            .where(JOB.c.id == next_one, JOB.c.state == QUEUED)
            .values(
                state=RUNNING,
                runner=runner,
                attempt=JOB.c.attempt + 1,
                heartbeat_at=now,
                started_at=sa.func.coalesce(JOB.c.started_at, now),
            )
            .returning(JOB.c.id)
        )
        with self.transaction() as connection:
            job_id = connection.execute(take).scalar()
            if job_id is None:
                return None
            self._event(connection, job_id, kind="state", text=RUNNING)
            return one_job(connection, JOB.c.id == job_id)

    def _event(self, connection: sa.Connection, job_id: str, *, kind: str, text: str) -> None:
        """The row of the job is locked first, so that numbers have no gap and no double."""
        counted = (
            JOB.update()
            .where(JOB.c.id == job_id)
            .values(events=JOB.c.events + 1, revision=JOB.c.revision + 1)
            .returning(JOB.c.events)
        )
        number = connection.execute(counted).scalar_one()
        row = {"job_id": job_id, "number": number, "kind": kind, "text": printable(text)}
        connection.execute(EVENT.insert().values(at=self.dialect.now(), **row))


def _check_room(
    connection: sa.Connection, owner: str, *, most: int | None, each: int | None
) -> None:
    """Refuse a job that was just put in the queue if there are too many with it."""
    queued = sa.select(sa.func.count()).where(JOB.c.state == QUEUED)
    if most is not None and connection.execute(queued).scalar_one() > most:
        raise QuotaError(f"limit reached: {most} jobs are queued; wait for some to end")
    if each is not None:
        count = connection.execute(queued.where(JOB.c.owner == owner)).scalar_one()
        if count > each:
            raise QuotaError(
                f"limit reached: {each} jobs of one user are queued; wait for some to end"
            )
