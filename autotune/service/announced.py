"""A server that says where it listens, once it does."""

from __future__ import annotations

import gc
import socket

import uvicorn

from autotune.cli.main import emit


class Announced(uvicorn.Server):
    """uvicorn's server; with port 0 nobody else could know the port."""

    def __init__(self, config: uvicorn.Config, output_format: str = "text") -> None:
        super().__init__(config)
        self._output_format = output_format

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say the address."""
        await super().startup(sockets)
        # What is here now stays: collecting it again and again held up everybody for half a second.
        gc.collect()
        gc.freeze()
        for server in self.servers:
            for each in server.sockets:
                host, port = each.getsockname()[:2]
                address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                emit(self._output_format, {"address": address}, [f"serving on {address}"])
