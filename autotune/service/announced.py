"""A server that prints its address as soon as it listens."""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from autotune.cli.main import emit


class Announced(uvicorn.Server):
    """uvicorn's server, which also prints its address: with port 0, only it knows the port.

    A signal to end calls `on_end` at once, so that jobs are stopped while answers are finished. The
    kernel ends the process if that takes longer than `end_s`, whatever still runs in it; its jobs
    end with it, and go on elsewhere.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        output_format: str = "text",
        *,
        on_end: Callable[[], None] = lambda: None,
        end_s: int = 9,
    ) -> None:
        super().__init__(config)
        self._output_format = output_format
        self._on_end, self._end_s = on_end, end_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, and see to it that it ends."""
        super().handle_exit(sig, frame)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(self._end_s)
        self._on_end()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then print the address."""
        await super().startup(sockets)
        # What is loaded by now is never freed; collecting it paused all requests for half a second.
        gc.collect()
        gc.freeze()
        for server in self.servers:
            for each in server.sockets:
                host, port = each.getsockname()[:2]
                address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                emit(self._output_format, {"address": address}, lines=[f"serving on {address}"])
