"""What writes to a database for a request has threads of its own: reading never waits for it.

Where a database is locked, whoever writes waits for it in a thread, for up to half a minute.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from autotune.service.errors import BusyError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_THREADS = 8
_MOST_WAITING = 256
_LIMITER: RunVar[anyio.CapacityLimiter] = RunVar("writers")


def in_writers(work: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
    """A route, or its part that writes, that runs in the threads of writers.

    Raises (when called):
        BusyError: too many writers wait already.
    """

    @functools.wraps(work)
    async def run(*args: _P.args, **more: _P.kwargs) -> _T:
        limiter = _limiter()
        if limiter.statistics().tasks_waiting >= _MOST_WAITING:
            raise BusyError("too many requests wait for the database; try again later")
        return await anyio.to_thread.run_sync(
            functools.partial(work, *args, **more), limiter=limiter
        )

    return run


def _limiter() -> anyio.CapacityLimiter:
    """That of the running event loop."""
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _LIMITER.set(limiter)
        return limiter
