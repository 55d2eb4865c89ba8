"""The job table: keep jobs alive, end them. One writer for every running job, by its lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from autotune.core.text import printable
from autotune.core.types import canonical_json
from autotune.service.errors import LeaseLostError
from autotune.service.job_queries import one_job
from autotune.service.job_queue import JobQueue
from autotune.service.job_records import Ending, Job, Lease
from autotune.service.job_schema import (
    CANCELLED,
    EVENT,
    FAILED,
    JOB,
    QUEUED,
    RUNNING,
    SUCCEEDED,
)

_TIMED_OUT = " timed out"


def _always_silent(lease: Lease, heartbeat_at: float) -> bool:
    """What `requeue_stale` supposes of a runner unless its caller watches runners itself."""
    del lease, heartbeat_at
    return True


class JobDatabase(JobQueue):
    """Jobs, their events and the API keys; `Store` says how it is opened and what may be raised."""

    def beat(self, lease: Lease, stage: str, *, done: int, total: int) -> bool:
        """Record a heartbeat and the progress; returns whether the job is to be cancelled.

        Raises:
            LeaseLostError: another runner has the job.
        """
        stage = printable(stage)
        changed = sa.or_(JOB.c.stage != stage, JOB.c.done != done, JOB.c.total != total)
        beat = (
            _held(lease)
            .values(
                heartbeat_at=self.dialect.now(),
                stage=stage,
                done=done,
                total=total,
                revision=JOB.c.revision + sa.case((changed, 1), else_=0),
            )
            .returning(JOB.c.cancel_requested)
        )
        with self.transaction() as connection:
            return bool(_write(connection, beat, lease=lease))

    def note(self, lease: Lease, kind: str, *, text: str) -> None:
        """Add an event to a running job.

        Raises:
            LeaseLostError: another runner has the job.
        """
        with self.transaction() as connection:
            still = _held(lease).values(heartbeat_at=self.dialect.now())
            _write(connection, still.returning(JOB.c.id), lease=lease)
            self._event(connection, lease.job_id, kind=kind, text=text)

    def finish(self, lease: Lease, ending: Ending, *, cancelled: bool = False) -> None:
        """End a running job, once.

        Raises:
            LeaseLostError: another runner has the job.
        """
        state = CANCELLED if cancelled else FAILED if ending.error is not None else SUCCEEDED
        values = {
            "exit_code": ending.exit_code,
            "error": printable(ending.error) if state == FAILED else None,
            "result": None if ending.result is None else canonical_json(dict(ending.result)),
        }
        with self.transaction() as connection:
            self._end(connection, _held(lease), lease=lease, state=state, values=values)

    def requeue(
        self,
        lease: Lease,
        why: str,
        *,
        delay_s: float,
        give_back: bool = False,
        busy: bool = False,
    ) -> None:
        """Put a running job back in the queue, to start again after `delay_s`.

        `give_back`: what ended was no attempt, so it is not counted. `busy`: its folder or device
        was in use.

        Raises:
            LeaseLostError: another runner has the job.
        """
        held = _held(lease)
        if give_back:
            held = held.values(attempt=JOB.c.attempt - 1)
        if busy:
            held = held.values(busy_since=sa.func.coalesce(JOB.c.busy_since, self.dialect.now()))
        elif not give_back:
            held = held.values(busy_since=None)
        with self.transaction() as connection:
            self._back(connection, held, lease=lease, why=why, delay_s=delay_s)

    def requeue_stale(
        self,
        older_than_s: float,
        most_losses: int,
        *,
        is_silent: Callable[[Lease, float], bool] = _always_silent,
    ) -> list[str]:
        """Requeue the jobs of runners that timed out; they fail if that has happened too often.

        A server that was killed or frozen is no fault of its job, so that what it had begun is not
        counted as an attempt. `most_losses` bounds how often a job may lose its runner, for the job
        that is at fault after all.

        A heartbeat is too old when it is `older_than_s` away from the database's clock: it lies in
        the future where the clock was set back. `is_silent` has the last word, given the lease and
        the time of the heartbeat.
        """
        now = self.dialect.now()
        near = JOB.c.heartbeat_at.between(now - older_than_s, now + older_than_s)
        stale = sa.select(JOB).where(JOB.c.state == RUNNING, ~near)
        found = []
        with self.transaction() as connection:
            rows = [Job.of(dict(row._mapping)) for row in connection.execute(stale)]
        for job in rows:
            lease = Lease(job_id=job.id, runner=job.runner or "", attempt=job.attempt)
            if not is_silent(lease, job.heartbeat_at or 0.0):
                continue
            silent = _held(lease).where(JOB.c.heartbeat_at == job.heartbeat_at)
            try:
                with self.transaction() as connection:
                    self._take_back(
                        connection, silent, lease=lease, job=job, most_losses=most_losses
                    )
                    found.append(job.id)
            except LeaseLostError:
                continue  # it spoke meanwhile, or another server was quicker
        return found

    def _take_back(
        self,
        connection: sa.Connection,
        silent: sa.Update,
        *,
        lease: Lease,
        job: Job,
        most_losses: int,
    ) -> None:
        why = f"runner {job.runner}{_TIMED_OUT}"
        losses = 1 + self._losses(connection, job.id)
        if job.cancel_requested:
            self._end(connection, silent, lease=lease, state=CANCELLED, values={"exit_code": None})
        elif losses >= most_losses:
            error = f"{why}; its servers were lost {losses} times while it ran"
            self._end(connection, silent, lease=lease, state=FAILED, values={"error": error})
        else:
            silent = silent.values(attempt=JOB.c.attempt - 1)
            self._back(connection, silent, lease=lease, why=why, delay_s=0.0)

    def _losses(self, connection: sa.Connection, job_id: str) -> int:
        """How often the job was taken back from a runner that timed out."""
        taken_back = EVENT.c.text.like(f"{QUEUED} again: runner %{_TIMED_OUT}")
        count = sa.select(sa.func.count()).where(EVENT.c.job_id == job_id, taken_back)
        return int(connection.execute(count).scalar_one())

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: a queued one now, a running one with the next heartbeat.

        Raises:
            NotFoundError: no such job.
        """
        wanted = JOB.update().where(JOB.c.id == job_id, JOB.c.state.in_([QUEUED, RUNNING]))
        wanted = wanted.where(JOB.c.cancel_requested == 0)
        waiting = JOB.update().where(JOB.c.id == job_id, JOB.c.state == QUEUED)
        now = self.dialect.now()
        with self.transaction() as connection:
            if connection.execute(wanted.values(cancel_requested=1)).rowcount:
                self._event(connection, job_id, kind="cancel", text="cancellation requested")
            if connection.execute(waiting.values(state=CANCELLED, finished_at=now)).rowcount:
                self._event(connection, job_id, kind="state", text=CANCELLED)
            return one_job(connection, JOB.c.id == job_id)

    def _end(
        self,
        connection: sa.Connection,
        held: sa.Update,
        *,
        lease: Lease,
        state: str,
        values: Mapping[str, Any],
    ) -> None:
        end = held.values(state=state, finished_at=self.dialect.now(), **values)
        _write(connection, end.returning(JOB.c.id), lease=lease)
        self._event(connection, lease.job_id, kind="state", text=state)

    def _back(
        self, connection: sa.Connection, held: sa.Update, *, lease: Lease, why: str, delay_s: float
    ) -> None:
        back = held.values(
            state=QUEUED, runner=None, heartbeat_at=None, not_before=self.dialect.now() + delay_s
        )
        _write(connection, back.returning(JOB.c.id), lease=lease)
        self._event(connection, lease.job_id, kind="state", text=f"{QUEUED} again: {why}")


def _held(lease: Lease) -> sa.Update:
    """An update of the job as long as the lease holds."""
    return JOB.update().where(
        JOB.c.id == lease.job_id,
        JOB.c.state == RUNNING,
        JOB.c.runner == lease.runner,
        JOB.c.attempt == lease.attempt,
    )


def _write(connection: sa.Connection, statement: Any, *, lease: Lease) -> Any:
    row = connection.execute(statement).first()
    if row is None:
        raise LeaseLostError(f"job {lease.job_id} is no longer of runner {lease.runner}")
    return row[0]
