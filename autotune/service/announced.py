"""A server that says where it listens, once it does."""

from __future__ import annotations

import gc
import socket

import click
import uvicorn


class Announced(uvicorn.Server):
    """uvicorn's server; with port 0 nobody else could know the port."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say the address."""
        await super().startup(sockets)
        # What is here now stays: collecting it again and again held up everybody for half a second.
        gc.collect()
        gc.freeze()
        for server in self.servers:
            for each in server.sockets:
                host, port = each.getsockname()[:2]
                click.echo(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}")
