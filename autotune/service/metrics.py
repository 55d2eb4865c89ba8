"""Metrics for Prometheus: jobs by state, open event streams, number and time of requests."""

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
    "autotune_request_seconds",
    "Seconds until the response started.",
    ["method", "route", "status"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
# Values of a label are kept for ever, and a client may send any word as a method.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")


class Timed:
    """ASGI middleware that records the time of each request under its route."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request and record the time until its response starts."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def timed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                labels = (method, route, str(message["status"]))
                REQUESTS.labels(*labels).observe(time.perf_counter() - started)
            await send(message)

        await self.app(scope, receive, timed_send)


class _Jobs:
    """A collector that reads the current values whenever Prometheus scrapes them."""

    def __init__(self, parts: State) -> None:
        self.parts = parts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges of jobs by state and of open event streams."""
        jobs = GaugeMetricFamily("autotune_jobs", "Jobs by state.", labels=["state"])
        for state, count in self.parts.counts.now().items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily(
            "autotune_streams", "Event streams open on this server.", self.parts.watcher.streams
        )


def render(parts: State) -> tuple[bytes, str]:
    """The metrics in Prometheus' text format, and its media type."""
    now = CollectorRegistry()
    now.register(_Jobs(parts))
    return generate_latest(REGISTRY) + generate_latest(now), CONTENT_TYPE_LATEST
