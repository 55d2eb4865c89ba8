"""/v1/jobs: submit, look, follow, cancel, fetch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from autotune.service.job_files import artefact_path, artefacts_of, read_log
from autotune.service.job_schema import StateName
from autotune.service.removal import remove_job
from autotune.service.specs import KINDS
from autotune.service.state import Caller, Owner, Parts
from autotune.service.submission import accept
from autotune.service.views import ArtefactView, JobPage, JobView, Log, Submission
from autotune.service.writing import in_writers

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

JobId = Annotated[str, PathParameter(pattern="^[0-9a-f]{20}$", description="Id of the job.")]
_Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern="^[!-~]+$",
        description="A further submission with the same key returns the first job.",
    ),
]
_KindName = Annotated[str, Query(pattern=f"^({'|'.join(KINDS)})$")]


@router.post("", status_code=201, responses={200: {"model": JobView}})
@in_writers
def submit(
    body: Submission,
    *,
    response: Response,
    parts: Parts,
    caller: Caller,
    idempotency_key: _Key = None,
) -> JobView:
    """Queue a job. 200 means that the idempotency key had been used for the same job."""
    device, spec = accept(parts.settings, parts.database, kind=body.kind, body=body.spec)
    job, new = parts.database.submit(
        body.kind,
        spec,
        device=device,
        owner=caller,
        idempotency_key=idempotency_key,
        most_queued=parts.settings.quotas.queued_jobs,
        most_queued_each=parts.settings.quotas.queued_jobs_each if caller else None,
    )
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobView.of(job)


@router.get("")
def list_jobs(
    parts: Parts,
    _: Caller,
    *,
    state: Annotated[list[StateName], Query()] = [],  # noqa: B006
    kind: _KindName | None = None,
    before: Annotated[str | None, Query(pattern="^[0-9a-f]{20}$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """List the jobs that match, the newest first, a page at a time."""
    jobs = parts.database.page(states=state, kind=kind, before=before, limit=limit)
    return JobPage(
        jobs=[JobView.of(job) for job in jobs],
        next=jobs[-1].id if len(jobs) == limit else None,
        counts=parts.counts.now(),
    )


@router.get("/{job_id}")
def get_job(job_id: JobId, parts: Parts, *, _: Caller) -> JobView:
    """Get a job by its id."""
    return JobView.of(parts.database.get(job_id))


@router.post("/{job_id}/cancel")
@in_writers
def cancel(job_id: JobId, parts: Parts, *, _: Caller) -> JobView:
    """Cancel a job: at once if queued, within seconds if running; no effect once it ended."""
    return JobView.of(parts.database.cancel(job_id))


@router.delete("/{job_id}", status_code=204)
@in_writers
def delete(job_id: JobId, parts: Parts, *, _: Caller) -> None:
    """Delete a job that has ended, with its events, log and result files."""
    remove_job(parts.settings, parts.database, job_id=job_id)


@router.get("/{job_id}/logs")
def logs(
    job_id: JobId,
    parts: Parts,
    *,
    _: Caller,
    offset: Annotated[int, Query(ge=0, le=2**50)] = 0,
) -> Log:
    """Get the log of a job from byte `offset` on."""
    job = parts.database.get(job_id)
    text, following = read_log(parts.settings, job_id, offset=offset)
    return Log(text=text, next_offset=following, ended=job.ended)


async def watchable(job_id: JobId, parts: Parts, *, _: Caller, owner: Owner) -> AsyncIterator[None]:
    """Refuse before the stream starts, while a status can still be sent; then hold its place."""
    await run_in_threadpool(parts.database.get, job_id)
    with parts.watcher.shares.hold(owner):
        yield


@router.get(
    "/{job_id}/events", response_class=EventSourceResponse, dependencies=[Depends(watchable)]
)
async def events(
    job_id: JobId,
    parts: Parts,
    *,
    caller: Caller,
    last_event_id: Annotated[str, Header(alias="Last-Event-ID", pattern="^[0-9]{0,9}$")] = "",
) -> AsyncIterator[ServerSentEvent]:
    """Stream events after `Last-Event-ID` as they happen, until the job has ended."""
    async for event in parts.watcher.events(job_id, int(last_event_id or 0), caller=caller):
        yield event


@router.get("/{job_id}/artefacts")
def list_artefacts(job_id: JobId, parts: Parts, *, _: Caller) -> list[ArtefactView]:
    """List the result files of a job."""
    parts.database.get(job_id)
    return [ArtefactView(name=n, bytes=b) for n, b in artefacts_of(parts.settings, job_id)]


@router.get("/{job_id}/artefacts/{name:path}", response_class=FileResponse)
def artefact(job_id: JobId, name: str, *, parts: Parts, _: Caller) -> FileResponse:
    """Download a result file, or a range of it."""
    parts.database.get(job_id)
    path = artefact_path(parts.settings, job_id, name=name)
    return FileResponse(path, filename=path.name, headers=_sandboxed(path))


def _sandboxed(path: Path) -> dict[str, str]:
    """A report is a page of its own, with styles and pictures inside and no scripts."""
    if path.suffix != ".html":
        return {}
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
    return {"Content-Security-Policy": policy}
