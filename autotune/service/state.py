"""What the routes share, and how they get at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from autotune.service.guard import check_access, token_of
from autotune.service.jobs import JobDatabase
from autotune.service.predictions import Predictions
from autotune.service.settings import Settings
from autotune.service.streams import Watcher


@dataclass(frozen=True, kw_only=True)
class State:
    """One server's parts."""

    settings: Settings
    database: JobDatabase
    predictions: Predictions
    watcher: Watcher


async def state_of(request: Request) -> State:
    """Of the application that serves the request; asynchronous, as it needs no thread."""
    return cast(State, request.app.state.parts)


Parts = Annotated[State, Depends(state_of)]


def caller_of(request: Request, parts: Parts) -> str:
    """The id of the caller's key; see `check_access`."""
    return check_access(parts.database, token_of(request))


Caller = Annotated[str, Depends(caller_of)]
