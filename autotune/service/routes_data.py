"""/v1/devices, /v1/databases, /v1/predict, /v1/models."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter

from autotune.service.catalogue import describe_database, describe_device, describe_devices
from autotune.service.state import Caller, Parts
from autotune.service.uploads import list_uploads, receive
from autotune.service.views import Answer, EstimateView, Question

router = APIRouter(prefix="/v1", tags=["devices"])
_Name = Annotated[str, PathParameter(max_length=100)]


@router.get("/devices")
def devices(_: Caller) -> list[dict[str, Any]]:
    """Every known device: its title, whether it is here, and what it is predicted from."""
    return describe_devices()


@router.get("/devices/{name}")
def device(name: _Name, parts: Parts, _: Caller) -> dict[str, Any]:
    """A device's specification with its sources, and what the database holds of it."""
    return describe_device(parts.settings, name)


@router.get("/databases")
def databases(parts: Parts, _: Caller) -> list[dict[str, Any]]:
    """What the latency database holds: one entry a fingerprint."""
    return describe_database(parts.settings)


@router.post("/predict")
def predict(question: Question, parts: Parts, _: Caller) -> Answer:
    """The latency of up to a thousand layers on a device, here or elsewhere."""
    shapes = [shape.layer() for shape in question.shapes]
    machine, found = parts.predictions.answer(
        question.device,
        question.backend,
        question.dtype,
        shapes,
        allow_extrapolation=question.allow_extrapolation,
    )
    return Answer(
        device=machine.spec.name,
        backend=machine.backend.name,
        dtype=machine.dtype,
        sources=list(found.sources),
        estimates=[EstimateView(**dataclasses.asdict(one)) for one in found.estimates],
    )


@router.get("/models", tags=["models"])
def models(parts: Parts, _: Caller) -> list[dict[str, Any]]:
    """Models that were uploaded."""
    return list_uploads(parts.settings)


@router.put(
    "/models/{name}/{file}", status_code=201, tags=["models"], max_body_size=2**62,
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)  # fmt: skip
async def upload(
    name: _Name, file: _Name, request: Request, parts: Parts, _: Caller
) -> dict[str, Any]:
    """Store one file of a model: safetensors, configuration or tokenizer, as it is."""
    return await receive(parts.settings, name, file, request.stream())
