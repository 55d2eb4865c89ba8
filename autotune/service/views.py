"""Requests and answers of the HTTP interface, as its OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from autotune.core.forms import Form, parse_form
from autotune.core.layers import LayerShape
from autotune.service.job_records import Job
from autotune.service.job_schema import StateName
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
    """A job. Times are Unix time in seconds; `done` of `total` is the progress of `stage`."""

    id: str
    kind: str
    spec: dict[str, Any]
    device: str
    state: StateName
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
        """The public fields of a job."""
        return JobView(**{name: getattr(job, name) for name in JobView.model_fields})


class JobPage(BaseModel):
    """A page of jobs, newest first; pass `next` as `before` to get the next page."""

    jobs: list[JobView]
    next: str | None
    counts: dict[str, int]


class Log(BaseModel):
    """A part of a job's log; read on from `next_offset`."""

    text: str
    next_offset: int
    ended: bool


class ArtefactView(BaseModel):
    """A result file of a job."""

    name: str
    bytes: int


class Shape(BaseModel):
    """A linear layer on `tokens` rows: dense, factorized at rank `rank`, or in a `form`."""

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


class PredictionRequest(BaseModel):
    """Layers whose latency on a device is to be predicted."""

    model_config = ConfigDict(extra="forbid")
    device: Text = "cpu"
    backend: Text | None = None
    dtype: Literal["fp32", "fp16", "bf16"] | None = None
    allow_extrapolation: bool = False
    shapes: Annotated[list[Shape], Field(min_length=1, max_length=1000)]


class EstimateView(BaseModel):
    """Latency in seconds with its interval, ratio to the dense layer, and source."""

    latency_s: float
    low_s: float
    high_s: float
    ratio: float
    source: str


class Answer(BaseModel):
    """One estimate for each shape, in order."""

    device: str
    backend: str
    dtype: str
    sources: list[str]
    estimates: list[EstimateView]
