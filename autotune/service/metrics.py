"""What Prometheus reads: jobs by state, open streams, requests and how long they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from autotune.service.state import State

REGISTRY = CollectorRegistry()
REQUESTS = Histogram(
    "autotune_request_seconds", "Seconds until a request was answered.",
    ["method", "route", "status"], registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)  # fmt: skip


class Timed:
    """ASGI middleware that times requests by the route they took."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; of a stream, until it starts."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def timed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                labels = (scope["method"], route, str(message["status"]))
                REQUESTS.labels(*labels).observe(time.perf_counter() - started)
            await send(message)

        await self.app(scope, receive, timed_send)


class _Jobs:
    """Read when asked for."""

    def __init__(self, parts: State) -> None:
        self.parts = parts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Two gauges."""
        jobs = GaugeMetricFamily("autotune_jobs", "Jobs by state.", labels=["state"])
        for state, count in self.parts.counts.now().items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily(
            "autotune_streams", "Open event streams of this server.", self.parts.watcher.streams
        )


def render(parts: State) -> tuple[bytes, str]:
    """The text and its media type."""
    now = CollectorRegistry()
    now.register(_Jobs(parts))
    return generate_latest(REGISTRY) + generate_latest(now), CONTENT_TYPE_LATEST
