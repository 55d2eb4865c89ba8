"""Limits of connections, which hold before any key is asked for: time, number and size.

A client that sends no complete request head is disconnected after a while, and sooner if the server
runs out of connections: then the one that has kept it waiting longest makes room for a new one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from autotune.service.limits import ConnectionLimits, client_group

HEAD_BYTES = 65_536
_REFUSAL = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class Crowd:
    """The open connections of a server; those that wait for a request head, oldest first."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._groups: dict[LimitedProtocol, str] = {}
        self._counts: Counter[str] = Counter()
        self._waiting: dict[LimitedProtocol, None] = {}

    def admit(self, one: LimitedProtocol, address: str) -> bool:
        """Whether the connection may stay; for it, another one may have to go."""
        group = "" if self.limits.trusts(address) else client_group(address)
        if group and self._counts[group] >= self.limits.each:
            return False
        while len(self._groups) >= self.limits.most:
            if not self._waiting:
                return False
            next(iter(self._waiting)).drop()
        self._groups[one] = group
        self._counts[group] += 1
        return True

    def leave(self, one: LimitedProtocol) -> None:
        """Forget a connection; it may be called again."""
        self.answers(one)
        group = self._groups.pop(one, None)
        if group is not None:
            self._counts[group] -= 1
            if not self._counts[group]:
                del self._counts[group]

    def waits(self, one: LimitedProtocol) -> None:
        """The connection has to send a request head."""
        if one in self._groups:
            self._waiting.setdefault(one)

    def answers(self, one: LimitedProtocol) -> None:
        """The connection has a request that is being answered."""
        self._waiting.pop(one, None)


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol on h11, whose heads have a limit of size, with the limits of a `Crowd`."""

    crowd: Crowd

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or refuse it in one line."""
        super().connection_made(transport)
        if self.crowd.admit(self, self.client[0] if self.client else ""):
            self._watch_head()
        else:
            transport.write(_REFUSAL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that the connection held."""
        self._stop(self._deadline, self._unread)
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on what was sent, unless the connection is about to be closed."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of one that was answered early."""
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        """The client does not read: it has a while to do so."""
        super().pause_writing()
        self._stop(self._unread)
        self._unread = self.loop.call_later(self.crowd.limits.head_s, self.drop)

    def resume_writing(self) -> None:
        """Forget the time limit for writing: the client reads again."""
        self._stop(self._unread)
        super().resume_writing()

    def drop(self) -> None:
        """Close the connection at once, whatever it still has to send."""
        self.crowd.leave(self)
        self.transport.abort()

    def _watch_head(self) -> None:
        """Start the clock where a request head is awaited; data alone does not set it back."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop(self._deadline)
            self._deadline = None
            self.crowd.answers(self)
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.crowd.limits.head_s, self.drop)
            self.crowd.waits(self)

    @staticmethod
    def _stop(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()


def limited_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """The protocol of one server, for uvicorn's `http` setting."""
    return type("Limited", (LimitedProtocol,), {"crowd": Crowd(limits)})


def uvicorn_settings(limits: ConnectionLimits) -> dict[str, Any]:
    """Settings of `uvicorn.Config` that go with the limits."""
    return {
        "http": limited_protocol(limits),
        "ws": "none",
        "h11_max_incomplete_event_size": HEAD_BYTES,
        # The crowd keeps to the limit; this counts also the connections that it is closing.
        "limit_concurrency": 2 * limits.most,
        # So many are accepted before anything is read; none of them may be taken for a silent one.
        "backlog": max(16, limits.most // 4),
        "proxy_headers": True,
        "forwarded_allow_ips": list(limits.proxies),
    }
