"""Finished tunings, and their figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from autotune.core.errors import UsageError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.alignment import aligned_ranks, coarse_grid
from autotune.devices.specs import find_device
from autotune.report.figures import comparison, run_figures, staircase
from autotune.report.plotly_json import plotly_json
from autotune.results.result import read_result
from autotune.service.errors import NotFoundError
from autotune.service.job_records import Job
from autotune.service.job_schema import SUCCEEDED
from autotune.service.routes_jobs import JobId
from autotune.service.settings import Settings
from autotune.service.specs import Text
from autotune.service.state import Caller, Parts

router = APIRouter(prefix="/v1", tags=["results"])
_POINTS = 64
_Width = Annotated[int, Field(ge=1, le=1_000_000)]


def read_record(settings: Settings, job: Job) -> Mapping[str, Any] | None:
    """result.json of a tuning that succeeded; None of anything else."""
    if job.kind != "tune" or job.state != SUCCEEDED:
        return None
    try:
        return read_result(settings.run_folder(job.id))
    except UsageError:
        return None  # its folder was removed


def _record(parts: Parts, job_id: str) -> Mapping[str, Any]:
    record = read_record(parts.settings, parts.database.get(job_id))
    if record is None:
        raise NotFoundError(f"job {job_id} is no tuning that succeeded, so it has no figures")
    return record


@router.get("/jobs/{job_id}/figures")
def figures(job_id: JobId, parts: Parts, _: Caller) -> dict[str, list[dict[str, Any]]]:
    """The figures of a tuning, as plotly.js draws them."""
    found = run_figures(_record(parts, job_id))
    return {name: [plotly_json(chart) for chart in charts] for name, charts in found.items()}


@router.get("/compare")
def compare(
    parts: Parts, _: Caller, job: Annotated[list[JobId], Query(min_length=1, max_length=8)]
) -> dict[str, Any]:
    """Several tunings in one figure."""
    records = {}
    for number, job_id in enumerate(job, start=1):
        record = _record(parts, job_id)
        records[f"{number}: {record['model']}"[:60]] = record
    return plotly_json(comparison(records))


class CurveQuestion(BaseModel):
    """A layer of which the latency is asked at all ranks."""

    model_config = ConfigDict(extra="forbid")
    device: Text
    tokens: _Width
    in_features: _Width
    out_features: _Width
    allow_extrapolation: bool = False


@router.post("/curve")
def curve(question: CurveQuestion, parts: Parts, _: Caller) -> dict[str, Any]:
    """Latency against rank of one layer on a device: the points, and the figure."""
    guess = question.allow_extrapolation
    spec = find_device(question.device)
    dense = LayerShape(
        tokens=question.tokens, in_features=question.in_features,
        out_features=question.out_features,
    )  # fmt: skip
    ranks = aligned_ranks(spec, dense.in_features, dense.out_features, spec.default_dtype)
    shapes = [dense, *(dense.with_form(low_rank(rank)) for rank in coarse_grid(ranks, _POINTS))]
    machine, answer = parts.predictions.answer(
        spec.name, None, None, shapes, allow_extrapolation=guess
    )
    found = answer.estimates
    points = [
        {"rank": shape.rank or None, "form": str(shape.form), **dataclasses.asdict(one)}
        for shape, one in zip(shapes, found, strict=True)
    ]
    figure = staircase({
        "tokens": dense.tokens, "in_features": dense.in_features, "parts": [],
        "out_features": dense.out_features, "points": points[1:],
        "dense_latency_s": found[0].latency_s,
    })  # fmt: skip
    return {
        "sources": list(answer.sources), "backend": machine.backend.name, "dtype": machine.dtype,
        "points": points, "figure": plotly_json(figure),
    }  # fmt: skip
