"""The HTTP application: routes, middleware and error responses."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from autotune.core.errors import (
    AutotuneError,
    BudgetInfeasibleError,
    DatabaseUnreachableError,
    DeviceMissingError,
    MeasurementError,
    StorageError,
    UsageError,
)
from autotune.core.version import __version__
from autotune.service import pages, routes_data, routes_jobs, routes_system, sign_in, tunings
from autotune.service.errors import ForbiddenError, NotFoundError, ServiceError
from autotune.service.guard import Guard, error_body
from autotune.service.housekeeping import keeping_house
from autotune.service.jobs import JobDatabase
from autotune.service.latencies import Latencies
from autotune.service.metrics import Timed
from autotune.service.prediction_pool import PredictionPool
from autotune.service.refusals import refusal
from autotune.service.settings import Settings
from autotune.service.state import Counts, State
from autotune.service.streams import Watcher
from autotune.service.uploads import Uploads

LOG = logging.getLogger(__name__)
_MOST_FIELDS = 20  # that an answer names, of those that are wrong
_STATUS = (
    (DatabaseUnreachableError, 503),
    (StorageError, 507),
    (UsageError, 422),
    (BudgetInfeasibleError, 422),
    (DeviceMissingError, 422),
    (MeasurementError, 422),  # no measurement is near the requested layer
)


def create_app(settings: Settings, database: JobDatabase) -> FastAPI:
    """The application on top of a job database; a `Dispatcher`, in any process, runs the jobs."""
    quotas = settings.quotas
    watcher = Watcher(database, most=quotas.streams, each=quotas.streams_each)
    latencies = Latencies(settings.latency_database)
    predictions = PredictionPool(settings.latency_database, threads=settings.threads)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with latencies, closing(predictions):
            async with watcher.running(), keeping_house(settings, database):
                yield

    app = FastAPI(
        title="lowrank-autotune",
        version=__version__,
        description="Submit and watch jobs that tune, profile, export and verify models.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        max_body_size=quotas.body_bytes,
        responses={code: {"description": text} for code, text in _REFUSALS.items()},
    )
    app.state.parts = State(
        settings=settings,
        database=database,
        counts=Counts(database),
        latencies=latencies,
        predictions=predictions,
        uploads=Uploads(settings),
        watcher=watcher,
    )
    for each in (routes_jobs, tunings, routes_data, routes_system, pages, sign_in):
        app.include_router(each.router)
    app.mount("/static", pages.STATIC)
    app.add_middleware(Guard, settings=settings, database=database, refuse=_ours)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts))
    app.add_middleware(Timed)
    app.add_exception_handler(AutotuneError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    return app


_REFUSALS = {
    400: "Malformed request.",
    401: "Invalid or missing API key.",
    404: "Not found.",
    409: "Conflict with an existing resource.",
    413: "Request body too large.",
    422: "Invalid value.",
    429: "Too many requests or queued jobs.",
    503: "Database unavailable; try again later.",
    507: "Insufficient storage.",
}


async def _ours(request: Request, error: Exception) -> Response:
    """Answer with an error of the tree: its message is written for the caller."""
    if request.method == "GET" and not request.url.path.startswith("/v1/"):
        page = _page(request, error)
        if page is not None:
            return page
    status = error.status if isinstance(error, ServiceError) else 0
    status = status or next((code for kind, code in _STATUS if isinstance(error, kind)), 0)
    if not status:
        return _internal(error)
    headers = {"Retry-After": "5"} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = error_body(type(error).__name__, str(error))
    return JSONResponse(body, status, headers=headers)


def _page(request: Request, error: Exception) -> Response | None:
    """The sign-in or not-found page for a browser; None if the answer should be JSON."""
    if "text/html" not in request.headers.get("Accept", ""):
        return None
    if isinstance(error, ForbiddenError):
        return RedirectResponse(f"/login?{urlencode({'next': request.url.path})}", 303)
    if isinstance(error, NotFoundError | UsageError):
        return pages.render("missing.html", 404, title="Not found", message=str(error))
    return None


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """The first fields that are wrong, and the very first of them as the message."""
    assert isinstance(error, RequestValidationError)
    fields = [refusal(one) for one in error.errors()[:_MOST_FIELDS]]
    return JSONResponse(error_body("UsageError", fields[0]["message"], fields=fields), 422)


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = error_body("HTTPError", str(error.detail))
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _unexpected(_: Request, error: Exception) -> JSONResponse:
    return _internal(error)


def _internal(error: Exception) -> JSONResponse:
    """Answer 500 without any detail; the log has the details under the number in the message."""
    number = secrets.token_hex(4)
    LOG.error("error %s", number, exc_info=error)
    message = f"internal server error; see error {number} in the server's log"
    return JSONResponse(error_body("InternalError", message), 500)
