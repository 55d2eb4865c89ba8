"""Routes for probes and monitoring: /healthz and /metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from autotune.core.version import __version__
from autotune.service.state import Caller, Parts

router = APIRouter(tags=["system"])


@router.get("/healthz")
def healthz(parts: Parts) -> dict[str, Any]:
    """Answer 200 as long as the job database responds; requires no key."""
    parts.database.page(limit=1)
    return {"status": "ok", "version": __version__}


@router.get("/metrics", response_class=Response)
def metrics(parts: Parts, _: Caller) -> Response:
    """Return the metrics in Prometheus' text format."""
    from autotune.service.metrics import render

    text, kind = render(parts)
    return Response(text, media_type=kind)
