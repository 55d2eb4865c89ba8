"""Checks applied to every request before its body is read: key, origin, speed and size, headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.core.errors import AutotuneError
from autotune.service.errors import ForbiddenError, QuotaError
from autotune.service.jobs import JobDatabase
from autotune.service.keys import any_key, key_of
from autotune.service.limits import ConnectionLimits, client_group
from autotune.service.sessions import COOKIE, key_of_session
from autotune.service.settings import Settings
from autotune.service.shares import Shares

_SAFE = ("GET", "HEAD", "OPTIONS")
_PUBLIC = ("/healthz", "/login", "/logout", "/openapi.json")
_STATIC = "/static/"
_UPLOADS = "/v1/models/"
_MOST_FIELDS = 10_000  # of a JSON body: each that is refused costs time
_LARGE_BYTES = 20_000
_ROOM_S = 0.05
_LEAST_BYTES_PER_S = 10_000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# plotly.js adds inline styles for its figures; scripts still come from this server only.
PLOTS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def check_access(database: JobDatabase, connection: HTTPConnection) -> str:
    """The id of the caller's key, or an empty string if no key was ever created.

    The key is in the Authorization header; browsers have a session that stands for it.

    Raises:
        ForbiddenError: a key is required, and the caller's is missing, invalid or revoked.
    """
    kind, _, token = connection.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return key_of(database, token.strip())
    if session := connection.cookies.get(COOKIE):
        return key_of_session(database, session)
    if any_key(database):
        raise ForbiddenError(
            "an API key is required: send it as `Authorization: Bearer KEY` (AUTOTUNE_API_KEY for "
            "the command line), or sign in at /login"
        )
    return ""


class Guard:
    """ASGI middleware: what a request must have before anything else looks at it.

    It leaves the caller's key, and the name under which the caller's limits are counted, as
    `caller` and `owner` in the state of the request. `refuse` makes the answer to an error.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        database: JobDatabase,
        refuse: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self.app, self.database, self.refuse = app, database, refuse
        self.pause_s = settings.quotas.pause_s
        self.limits: ConnectionLimits = settings.connections
        self.requests = Shares(what="requests", total=self.limits.most, each=self.limits.each)
        self.parsing = asyncio.Lock()
        self.bodies = Shares(what="bytes of request bodies", total=64_000_000, each=16_000_000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and pass it on, or answer with the error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _with_headers(scope, send)
        # The server leaves the body away where the request that it knows asks for none.
        scope = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        address = (scope.get("client") or ("", 0))[0]
        counted = not self.limits.trusts(address)
        try:
            if counted:
                self.requests.take(client_group(address))
        except AutotuneError as error:
            await (await self.refuse(Request(scope), error))(scope, receive, send)
            return
        try:
            await self._checked(scope, receive, send)
        finally:
            if counted:
                self.requests.give_back(client_group(address))

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _from_elsewhere(scope):
            refusal = error_body("ForbiddenError", "cross-site request rejected")
            await JSONResponse(refusal, 403)(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        path, client = scope["path"], scope.get("client")
        state["caller"] = None
        state["owner"] = client_group(client[0]) if client else ""
        if path not in _PUBLIC and not path.startswith(_STATIC):
            request = Request(scope)
            try:
                caller = await run_in_threadpool(check_access, self.database, request)
            except AutotuneError as error:
                await (await self.refuse(request, error))(scope, receive, send)
                return
            state["caller"], state["owner"] = caller, caller or state["owner"]
        body = Body(receive, state["owner"], guard=self, stored=path.startswith(_UPLOADS))
        try:
            await self.app(scope, body.receive, send)
        finally:
            body.release()


class Body:
    """The body of a request as it comes: not too slowly, and not more than can be kept.

    `stored` bodies are written to disk as they come, and have limits of their own.
    """

    def __init__(self, receive: Receive, owner: str, *, guard: Guard, stored: bool) -> None:
        self._receive, self._owner, self._stored = receive, owner, stored
        self._pause_s, self._shares, self._parsing = guard.pause_s, guard.bodies, guard.parsing
        self._ended = False
        self._waited_s = 0.0
        self._bytes = self._kept = self._fields = 0

    async def receive(self) -> Message:
        """The next part.

        Raises:
            HTTPException: it did not come in time, or is more than can be kept.
        """
        if self._ended:
            return await self._receive()  # waits until the client disconnects
        started = time.monotonic()
        left_s = self._pause_s + self._bytes / _LEAST_BYTES_PER_S - self._waited_s
        try:
            message = await asyncio.wait_for(self._receive(), min(self._pause_s, max(left_s, 0.0)))
        except TimeoutError:
            text = f"request timed out: no data received for {self._pause_s:g} s"
            if left_s < self._pause_s:
                text = f"request timed out: the body is slower than {_LEAST_BYTES_PER_S} bytes/s"
            raise HTTPException(408, text, {"Connection": "close"}) from None
        self._waited_s += time.monotonic() - started
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        self._count(message.get("body", b""))
        if self._ended and self._kept > _LARGE_BYTES:
            # It is parsed at once when this returns. Bodies of this size are parsed one after the
            # other, and other requests find room between them.
            async with self._parsing:
                await asyncio.sleep(_ROOM_S)
        return message

    def _count(self, part: bytes) -> None:
        self._bytes += len(part)
        if self._stored or not part:
            return
        self._fields += part.count(b":")
        if self._fields > _MOST_FIELDS:
            raise HTTPException(413, f"the body has more than {_MOST_FIELDS} fields")
        try:
            self._shares.take(self._owner, len(part))
        except QuotaError as error:
            raise HTTPException(error.status, str(error)) from error
        self._kept += len(part)

    def release(self) -> None:
        """The request is done, and nothing of the body is kept."""
        if self._kept:
            self._shares.give_back(self._owner, self._kept)


def _with_headers(scope: Scope, send: Send) -> Send:
    """The same, with what every answer has to tell a browser."""
    path = scope["path"]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            kept = path.startswith(_STATIC) and message["status"] in (200, 206, 304)
            headers.setdefault("Cache-Control", "no-cache" if kept else "no-store")
        await send(message)

    return send_with_headers


def _from_elsewhere(scope: Scope) -> bool:
    """Whether the request changes something and was sent by a page of another site."""
    if scope["method"] in _SAFE:
        return False
    headers = Headers(scope=scope)
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != headers.get("Host", "")


def error_body(kind: str, message: str, **more: Any) -> dict[str, Any]:
    """The JSON body of every error response."""
    return {"error": {"kind": kind, "message": message, **more}}
