"""A service to attack: the fixtures of its own tests, and a real server with limits of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from autotune.service.connections import uvicorn_settings
from autotune.service.limits import ConnectionLimits
from tests.autotune.service.conftest import client, database, roots, settings

__all__ = ["client", "database", "roots", "settings"]
_OPENED: list[socket.socket] = []


@pytest.fixture(autouse=True)
def connections_are_closed() -> Iterator[None]:
    """Whatever a test has connected ends with it."""
    yield
    while _OPENED:
        _OPENED.pop().close()


@contextmanager
def listening(app: object, limits: ConnectionLimits) -> Iterator[int]:
    """Serve an application with these limits, in a thread; yields the port."""
    config = uvicorn.Config(app, port=0, log_level="critical", **uvicorn_settings(limits))  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Start servers for the time of a test: `serve(app, head_s=1.0)` returns the port."""
    opened = []

    def start(app: object, **limits: object) -> int:
        context = listening(app, ConnectionLimits(**limits))  # type: ignore[arg-type]
        opened.append(context)
        return context.__enter__()

    yield start
    for context in opened:
        context.__exit__(None, None, None)


def connect(port: int, *, source: str = "127.0.0.1", receive_bytes: int = 0) -> socket.socket:
    """A connection to a server on this machine, from an address of this machine."""
    found = socket.socket()
    if receive_bytes:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    found.settimeout(30)
    _OPENED.append(found)
    found.bind((source, 0))
    found.connect(("127.0.0.1", port))
    return found


def answer_of(connection: socket.socket) -> bytes:
    """Everything that the server sends until it closes the connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


def ask(port: int, path: str = "/", *, source: str = "127.0.0.1", more: str = "") -> bytes:
    """The whole answer to a GET request on a connection of its own."""
    with connect(port, source=source) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}\r\n"
        connection.sendall(head.encode())
        return answer_of(connection)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait on an event loop until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.02)
