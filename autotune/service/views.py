"""Requests and answers of the HTTP interface, as its OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from autotune.core.forms import Form, parse_form
from autotune.core.layers import LayerShape
from autotune.service.job_records import Job
from autotune.service.specs import KINDS, Text, spec_model

_Size = Annotated[int, Field(ge=1, le=2**31 - 1)]


def _submission(kind: str) -> type[BaseModel]:
    fields: dict[str, Any] = {"kind": Literal[kind], "spec": spec_model(kind)}
    name = f"{kind.capitalize()}Job"
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


# TuneJob | ProfileJob | ExportJob | VerifyJob | DriftJob
_jobs: Any = None
for _kind in KINDS:
    _jobs = _submission(_kind) if _jobs is None else _jobs | _submission(_kind)
Submission = Annotated[_jobs, Field(discriminator="kind")]


class JobView(BaseModel):
    """A job. Times are seconds since 1970; `progress` is of the stage that runs."""

    id: str
    kind: str
    spec: dict[str, Any]
    device: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    cancel_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempt: int
    stage: str
    done: int
    total: int
    exit_code: int | None
    error: str | None
    result: dict[str, Any] | None

    @staticmethod
    def of(job: Job) -> JobView:
        """Without what only runners need."""
        return JobView(**{name: getattr(job, name) for name in JobView.model_fields})


class JobPage(BaseModel):
    """Some jobs, the youngest first; `next` is `before` of the next page."""

    jobs: list[JobView]
    next: str | None
    counts: dict[str, int]


class Log(BaseModel):
    """A part of what a job's process said; `next_offset` is where to go on."""

    text: str
    next_offset: int
    ended: bool


class ArtefactView(BaseModel):
    """A file that a job handed out."""

    name: str
    bytes: int


class Shape(BaseModel):
    """A linear layer on `tokens` rows: dense, a pair of rank `rank`, or in a `form`."""

    model_config = ConfigDict(extra="forbid")
    tokens: _Size
    in_features: _Size
    out_features: _Size
    rank: _Size | None = None
    form: Text | None = None

    def layer(self) -> LayerShape:
        """The layer in the form asked for; `form` goes before `rank`."""
        form = parse_form(self.form) if self.form else Form(rank=self.rank or 0)
        return LayerShape(
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            form=form,
        )


class Question(BaseModel):
    """Layers of which the latency on a device is asked."""

    model_config = ConfigDict(extra="forbid")
    device: Text = "cpu"
    backend: Text | None = None
    dtype: Literal["fp32", "fp16", "bf16"] | None = None
    allow_extrapolation: bool = False
    shapes: Annotated[list[Shape], Field(min_length=1, max_length=1000)]


class EstimateView(BaseModel):
    """Seconds, the interval they are in, ratio to the dense layer, and where they are from."""

    latency_s: float
    low_s: float
    high_s: float
    ratio: float
    source: str


class Answer(BaseModel):
    """One estimate a shape, in order."""

    device: str
    backend: str
    dtype: str
    sources: list[str]
    estimates: list[EstimateView]
