"""Server-sent events: one periodic query serves all streams, however many there are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import ServerSentEvent

from autotune.core.errors import AutotuneError
from autotune.service.jobs import JobDatabase
from autotune.service.keys import refused_keys
from autotune.service.shares import Shares

LOG = logging.getLogger(__name__)
_EVERY_S = 0.3
_KEYS_EVERY_S = 2.0


class Watcher:
    """Tracks the revision of every job that a stream watches; one per event loop.

    `shares` are the streams of each user; whoever starts one holds a share as long as it lasts.
    """

    def __init__(self, database: JobDatabase, *, most: int, each: int) -> None:
        self.database = database
        self.shares = Shares(what="event streams", total=most, each=each)
        self._watched: Counter[str] = Counter()
        self._callers: Counter[str] = Counter()
        self._refused: set[str] = set()
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

    async def events(
        self, job_id: str, after: int, *, caller: str = ""
    ) -> AsyncIterator[ServerSentEvent]:
        """Yield a job's events after number `after`, until the job has ended.

        Stored events have their number as id; `progress` has none, only the latest matters. They
        end early where the key of the `caller` is revoked.
        """
        self._watched[job_id] += 1
        self._callers[caller] += 1
        try:
            seen, progress = -1, None
            while caller not in self._refused:
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
                await self._newer(job_id, seen, caller=caller)
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]
                self._refused.discard(caller)
            self._watched[job_id] -= 1
            if not self._watched[job_id]:
                del self._watched[job_id]
                self._revisions.pop(job_id, None)

    async def _newer(self, job_id: str, seen: int, *, caller: str = "") -> None:
        async with self._changed:
            # Greater, not different: the last poll may predate what the stream has read since.
            await self._changed.wait_for(
                lambda: self._revisions.get(job_id, seen) > seen or caller in self._refused
            )

    async def _look(self) -> None:
        asked = -_KEYS_EVERY_S
        while True:
            await asyncio.sleep(_EVERY_S)
            if not self._watched:
                continue
            try:
                found = await run_in_threadpool(self.database.revisions, list(self._watched))
                if time.monotonic() - asked >= _KEYS_EVERY_S:
                    asked = time.monotonic()
                    callers = list(self._callers)
                    self._refused = await run_in_threadpool(refused_keys, self.database, callers)
            except AutotuneError as error:
                LOG.warning("%s", error)
                continue
            async with self._changed:
                self._revisions.update({k: v for k, v in found.items() if k in self._watched})
                self._changed.notify_all()
