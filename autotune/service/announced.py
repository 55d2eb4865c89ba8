"""A server that prints its address as soon as it listens."""

from __future__ import annotations

import gc
import socket

import uvicorn

from autotune.cli.main import emit


class Announced(uvicorn.Server):
    """uvicorn's server, which also prints its address: with port 0, only it knows the port."""

    def __init__(self, config: uvicorn.Config, output_format: str = "text") -> None:
        super().__init__(config)
        self._output_format = output_format

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
