"""Checks applied to every request: API key, origin, speed of the body, browser headers."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.service.errors import ForbiddenError
from autotune.service.jobs import JobDatabase
from autotune.service.keys import any_key, key_of

COOKIE = "autotune_key"
_SAFE = ("GET", "HEAD", "OPTIONS")
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


def token_of(connection: HTTPConnection) -> str | None:
    """The API key of a request, from its Authorization header or, for browsers, from a cookie."""
    kind, _, token = connection.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    return connection.cookies.get(COOKIE)


def check_access(database: JobDatabase, token: str | None) -> str:
    """The id of the caller's key, or an empty string if no key was ever created.

    Raises:
        ForbiddenError: a key is required, and the caller's is missing, invalid or revoked.
    """
    if token:
        return key_of(database, token)
    if any_key(database):
        raise ForbiddenError(
            "an API key is required: send it as `Authorization: Bearer KEY` (AUTOTUNE_API_KEY for "
            "the command line), or sign in at /login"
        )
    return ""


class Guard:
    """ASGI middleware: rejects cross-site requests and slow bodies, and sets security headers."""

    def __init__(self, app: ASGIApp, pause_s: float) -> None:
        self.app, self.pause_s = app, pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and pass it on, or answer with the error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        ended = False

        async def receive_in_time() -> Message:
            nonlocal ended
            if ended:
                return await receive()  # waits until the client disconnects
            try:
                message = await asyncio.wait_for(receive(), self.pause_s)
            except TimeoutError:
                text = f"request timed out: no data received for {self.pause_s:g} s"
                raise HTTPException(408, text) from None
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        if _from_elsewhere(scope):
            body = error_body("ForbiddenError", "cross-site request rejected")
            await JSONResponse(body, 403)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive_in_time, send_with_headers)


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
