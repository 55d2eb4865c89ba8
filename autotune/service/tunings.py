"""The figures of finished tunings, and of single layers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from autotune.core.errors import UsageError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.alignment import aligned_ranks, coarse_grid
from autotune.devices.specs import find_device
from autotune.report.figures import comparison, run_figures, staircase
from autotune.report.plotly_json import plotly_json
from autotune.results.record import Staircase, StaircasePoint, TuneRecord
from autotune.results.result import RESULT, read_result
from autotune.service.errors import ConflictError, NotFoundError
from autotune.service.job_files import own_folder
from autotune.service.job_records import Job
from autotune.service.job_schema import SUCCEEDED
from autotune.service.prediction_records import Question
from autotune.service.presence import while_connected
from autotune.service.routes_jobs import JobId
from autotune.service.settings import Settings
from autotune.service.specs import Text
from autotune.service.state import Caller, Owner, Parts

router = APIRouter(prefix="/v1", tags=["results"])
_POINTS = 64
_Width = Annotated[int, Field(ge=1, le=1_000_000)]


def read_record(settings: Settings, job: Job) -> TuneRecord | None:
    """The result of a tuning that succeeded; None of other jobs, or where its folder was removed.

    Raises:
        UsageError: the result is there and cannot be read: it is damaged, or of a newer version.
    """
    if job.kind != "tune" or job.state != SUCCEEDED:
        return None
    folder = own_folder(settings, job.id)
    if folder is None or not (folder / RESULT).is_file():
        return None
    if (folder / RESULT).is_symlink():
        raise UsageError(f"{RESULT} of job {job.id} is a link; links are not followed")
    return read_result(folder)


def open_record(settings: Settings, job: Job) -> tuple[TuneRecord | None, str]:
    """The result as `read_record` returns it, and a sentence if it is there but unreadable."""
    try:
        return read_record(settings, job), ""
    except UsageError as error:
        return None, str(error)


def _record(parts: Parts, job_id: str) -> TuneRecord:
    job = parts.database.get(job_id)
    record, problem = open_record(parts.settings, job)
    if problem:
        raise ConflictError(f"the result of job {job_id} cannot be read: {problem}")
    if record is None:
        if job.kind == "tune" and job.state == SUCCEEDED:
            raise NotFoundError(f"the result of job {job_id} has been removed from its folder")
        raise NotFoundError(f"job {job_id} is not a tuning that succeeded, so it has no figures")
    return record


@router.get("/jobs/{job_id}/figures")
def figures(job_id: JobId, parts: Parts, *, _: Caller) -> dict[str, list[dict[str, Any]]]:
    """The figures of a finished tuning, as plotly.js traces and layouts."""
    found = run_figures(_record(parts, job_id))
    return {name: [plotly_json(chart) for chart in charts] for name, charts in found.items()}


@router.get("/compare")
def compare(
    parts: Parts, _: Caller, *, job: Annotated[list[JobId], Query(min_length=1, max_length=8)]
) -> dict[str, Any]:
    """The Pareto fronts and chosen plans of several finished tunings in one figure."""
    records = {}
    for number, job_id in enumerate(job, start=1):
        record = _record(parts, job_id)
        records[f"{number}: {record.model}"[:60]] = record
    return plotly_json(comparison(records))


class CurveQuestion(BaseModel):
    """A layer whose latency is predicted at every rank."""

    model_config = ConfigDict(extra="forbid")
    device: Text
    tokens: _Width
    in_features: _Width
    out_features: _Width
    allow_extrapolation: bool = False


@router.post("/curve")
async def curve(
    question: CurveQuestion, parts: Parts, *, request: Request, _: Caller, owner: Owner
) -> dict[str, Any]:
    """Predict the latency of one layer against its rank: the points, and the figure."""
    spec = find_device(question.device)
    dense = LayerShape(
        tokens=question.tokens,
        in_features=question.in_features,
        out_features=question.out_features,
    )
    ranks = aligned_ranks(
        spec,
        in_features=dense.in_features,
        out_features=dense.out_features,
        dtype=spec.default_dtype,
    )
    ladder = (dense.with_form(low_rank(rank)) for rank in coarse_grid(ranks, _POINTS))
    shapes = (dense, *ladder)
    asked = Question(
        device=spec.name, shapes=shapes, allow_extrapolation=question.allow_extrapolation
    )
    answer = await while_connected(request, parts.predictions.answer(owner, asked))
    found = answer.estimates
    points = [
        {"rank": shape.form.rank_or_none, "form": str(shape.form), **one.to_json()}
        for shape, one in zip(shapes, found, strict=True)
    ]
    figure = staircase(
        Staircase(
            tokens=dense.tokens,
            in_features=dense.in_features,
            out_features=dense.out_features,
            parts=(),
            dense_latency_s=found[0].latency_s,
            points=tuple(
                StaircasePoint(
                    form=shape.form,
                    latency_s=one.latency_s,
                    low_s=one.low_s,
                    high_s=one.high_s,
                    ratio=one.ratio,
                    source=one.source,
                )
                for shape, one in zip(shapes[1:], found[1:], strict=True)
            ),
        )
    )
    return {
        "sources": list(answer.sources),
        "backend": answer.backend,
        "dtype": answer.dtype,
        "points": points,
        "figure": plotly_json(figure),
    }
