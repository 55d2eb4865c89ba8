"""State shared by the routes, and the FastAPI dependencies that provide it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from autotune.service.errors import ForbiddenError
from autotune.service.jobs import JobDatabase
from autotune.service.latencies import Latencies
from autotune.service.prediction_pool import PredictionPool
from autotune.service.settings import Settings
from autotune.service.streams import Watcher
from autotune.service.uploads import Uploads

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
    predictions: PredictionPool
    uploads: Uploads
    watcher: Watcher


async def state_of(request: Request) -> State:
    """The state of the application; asynchronous so that FastAPI does not use a thread."""
    return cast(State, request.app.state.parts)


Parts = Annotated[State, Depends(state_of)]


async def caller_of(request: Request) -> str:
    """The id of the caller's API key, empty if no key was ever created; `Guard` has checked it.

    Raises:
        ForbiddenError: keys exist and the caller sent none.
    """
    caller = request.state.caller
    if caller is None:
        raise ForbiddenError("an API key is required")
    return cast(str, caller)


async def owner_of(request: Request) -> str:
    """The name under which the caller's limits are counted: the key, else the address."""
    return cast(str, request.state.owner)


Caller = Annotated[str, Depends(caller_of)]
Owner = Annotated[str, Depends(owner_of)]
