"""Server-sent events: one periodic query serves all streams, however many there are."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import ServerSentEvent

from autotune.core.errors import AutotuneError
from autotune.service.errors import QuotaError
from autotune.service.jobs import JobDatabase

LOG = logging.getLogger(__name__)
_EVERY_S = 0.3


class Watcher:
    """Tracks the revision of every job that a stream watches; one per event loop."""

    def __init__(self, database: JobDatabase, most: int) -> None:
        self.database, self.most = database, most
        self._watched: Counter[str] = Counter()
        self._revisions: dict[str, int] = {}
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll the job database for changes while the context is open."""
        task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @property
    def streams(self) -> int:
        """The number of open event streams."""
        return self._watched.total()

    def admit(self) -> None:
        """Check that another stream may start.

        Raises:
            QuotaError: as many streams as allowed are open.
        """
        if self.streams >= self.most:
            raise QuotaError(f"limit reached: {self.most} event streams are open; close one first")

    async def events(self, job_id: str, after: int) -> AsyncIterator[ServerSentEvent]:
        """Yield a job's events after number `after`, until the job has ended.

        Stored events have their number as id; `progress` has none, only the latest matters.
        """
        self._watched[job_id] += 1
        try:
            seen, progress = -1, None
            while True:
                job = await run_in_threadpool(self.database.get, job_id)
                seen = job.revision
                while found := await run_in_threadpool(self.database.events, job_id, after):
                    for event in found:
                        data = {"at": event.at, "text": event.text}
                        yield ServerSentEvent(data=data, event=event.kind, id=str(event.number))
                    after = found[-1].number
                now = {"stage": job.stage, "done": job.done, "total": job.total}
                if now != progress and not job.ended:
                    progress = now
                    yield ServerSentEvent(data=now, event="progress")
                if job.ended and after >= job.events:
                    yield ServerSentEvent(data={"state": job.state}, event="end")
                    return
                await self._newer(job_id, seen)
        finally:
            self._watched[job_id] -= 1
            if not self._watched[job_id]:
                del self._watched[job_id]
                self._revisions.pop(job_id, None)

    async def _newer(self, job_id: str, seen: int) -> None:
        async with self._changed:
            # Greater, not different: the last poll may predate what the stream has read since.
            await self._changed.wait_for(lambda: self._revisions.get(job_id, seen) > seen)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            if not self._watched:
                continue
            try:
                found = await run_in_threadpool(self.database.revisions, list(self._watched))
            except AutotuneError as error:
                LOG.warning("%s", error)
                continue
            async with self._changed:
                self._revisions.update({k: v for k, v in found.items() if k in self._watched})
                self._changed.notify_all()
