"""State shared by the routes, and the FastAPI dependencies that provide it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from autotune.service.guard import check_access, token_of
from autotune.service.jobs import JobDatabase
from autotune.service.latencies import Latencies
from autotune.service.predictions import Predictions
from autotune.service.settings import Settings
from autotune.service.streams import Watcher

_COUNTED_S = 1.0


class Counts:
    """Numbers of jobs by state, cached for a second, as counting a long history is slow."""

    def __init__(self, database: JobDatabase) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._at = -_COUNTED_S

    def now(self) -> dict[str, int]:
        """The number of jobs in every state."""
        with self._lock:
            if time.monotonic() - self._at >= _COUNTED_S:
                self._counts = self._database.counts()
                self._at = time.monotonic()
            return self._counts


@dataclass(frozen=True, kw_only=True)
class State:
    """The parts of one server that its routes use."""

    settings: Settings
    database: JobDatabase
    counts: Counts
    latencies: Latencies
    predictions: Predictions
    watcher: Watcher


async def state_of(request: Request) -> State:
    """The state of the application; asynchronous so that FastAPI does not use a thread."""
    return cast(State, request.app.state.parts)


Parts = Annotated[State, Depends(state_of)]


def caller_of(request: Request, parts: Parts) -> str:
    """The id of the caller's API key; see `check_access`."""
    return check_access(parts.database, token_of(request))


Caller = Annotated[str, Depends(caller_of)]
