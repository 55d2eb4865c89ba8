"""Signing in and out with a browser: an API key is exchanged for a session.

Both are open to everybody, so only who has a key or a session gets as far as writing.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel

from autotune.service.errors import ForbiddenError
from autotune.service.keys import key_of
from autotune.service.pages import render
from autotune.service.sessions import COOKIE, LIFE_S, close_session, key_of_session, open_session
from autotune.service.state import Parts
from autotune.service.writing import in_writers

router = APIRouter(include_in_schema=False)
# Browsers drop tabs and line breaks from an address, and take a backslash for a slash.
_OWN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")


class Login(BaseModel):
    """The body of a sign-in request."""

    key: Annotated[str, Query(max_length=200)]


@router.get("/login")
def login_page(
    target: Annotated[str, Query(alias="next", max_length=500)] = "/",
) -> HTMLResponse:
    """The page on which a browser signs in with an API key."""
    return render("login.html", next=target if _OWN_PATH.fullmatch(target) else "/")


@router.post("/login")
async def login(body: Login, request: Request, *, parts: Parts) -> JSONResponse:
    """Check the key and begin a session, whose cookie scripts and other sites cannot use."""
    key_id = await run_in_threadpool(key_of, parts.database, body.key)
    session = await in_writers(open_session)(parts.database, key_id)
    answer = JSONResponse({"ok": True})
    answer.set_cookie(
        COOKIE,
        session,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        max_age=LIFE_S,
    )
    return answer


@router.post("/logout")
async def logout(request: Request, parts: Parts) -> RedirectResponse:
    """End the session, on the server as well as in the browser."""
    if session := request.cookies.get(COOKIE):
        with suppress(ForbiddenError):
            await run_in_threadpool(key_of_session, parts.database, session)
            await in_writers(close_session)(parts.database, session)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
