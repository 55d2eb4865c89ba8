"""Requests and answers of the HTTP interface, as its OpenAPI document shows them."""

from __future__ import annotations

from types import GenericAlias
from typing import Annotated, Any, Literal

from fastapi import Body
from pydantic import BaseModel, ConfigDict, Field, create_model

from autotune.core.layers import LayerShape
from autotune.core.options_json import from_json
from autotune.layers.options import LayerOptions, PredictOptions
from autotune.service.job_records import Job
from autotune.service.job_schema import StateName
from autotune.service.schema import Spec, pydantic_model
from autotune.service.specs import KINDS, spec_model


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


# Layers whose latency on a device is to be predicted: `autotune predict` of many layers at once.
_ONE_LAYER = ("tokens", "shape", "ranks", "forms", "threads")
_shape: Any = pydantic_model(LayerOptions, "Shape")
_shapes: Any = Annotated[
    GenericAlias(list, (_shape,)), Field(min_length=1, max_length=1000, description="The layers.")
]
_prediction: Any = pydantic_model(
    PredictOptions, "PredictionRequest", leave_out=_ONE_LAYER, shapes=(_shapes, ...)
)
PredictionRequest = Annotated[_prediction, Body()]


def layer_of(shape: Spec) -> LayerShape:
    """The layer that a `Shape` describes."""
    return from_json(LayerOptions, shape.model_dump()).layer()


class EstimateView(BaseModel):
    """Latency in seconds and ratio to the dense layer, each with its interval, and source."""

    latency_s: float
    low_s: float
    high_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    source: str


class Answer(BaseModel):
    """One estimate for each shape, in order."""

    device: str
    backend: str
    dtype: str
    sources: list[str]
    estimates: list[EstimateView]
