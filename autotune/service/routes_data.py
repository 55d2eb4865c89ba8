"""Routes below /v1 for devices, databases, predictions and uploaded models."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter

from autotune.cli.job_options import PredictOptions
from autotune.core.errors import AutotuneError
from autotune.core.option_names import spell
from autotune.layers.predict import LayerPredictions
from autotune.service.catalogue import describe_database, describe_device, describe_devices
from autotune.service.state import Caller, Parts, State
from autotune.service.uploads import list_uploads, receive
from autotune.service.views import Answer, EstimateView, PredictionRequest, layer_of
from autotune.tuning.machine import Machine

router = APIRouter(prefix="/v1", tags=["devices"])
_Name = Annotated[str, PathParameter(max_length=100)]


@router.get("/devices")
def devices(_: Caller) -> list[dict[str, Any]]:
    """List the known devices: title, whether on this machine, and the source of predictions."""
    return describe_devices()


@router.get("/devices/{name}")
def device(name: _Name, parts: Parts, *, _: Caller) -> dict[str, Any]:
    """Return a device's specification with its sources, and its coverage in the database."""
    return describe_device(parts.latencies, name)


@router.get("/databases")
def databases(parts: Parts, _: Caller) -> list[dict[str, Any]]:
    """Describe the latency database, with one entry per fingerprint."""
    return describe_database(parts.latencies)


@router.post("/predict")
def predict(question: PredictionRequest, parts: Parts, *, _: Caller) -> Answer:
    """Predict the latency of up to 1,000 layers on a device, whether or not it is present."""
    try:
        machine, found = _predicted(question, parts)
    except AutotuneError as error:
        raise spell(error, "api", PredictOptions) from None
    return Answer(
        device=machine.spec.name,
        backend=machine.backend.name,
        dtype=machine.dtype,
        sources=list(found.sources),
        estimates=[EstimateView(**dataclasses.asdict(one)) for one in found.estimates],
    )


def _predicted(question: Any, parts: State) -> tuple[Machine, LayerPredictions]:
    return parts.predictions.answer(
        question.device,
        question.backend,
        dtype=question.dtype,
        shapes=[layer_of(shape) for shape in question.shapes],
        allow_extrapolation=question.allow_extrapolation,
    )


@router.get("/models", tags=["models"])
def models(parts: Parts, _: Caller) -> list[dict[str, Any]]:
    """List the uploaded models with their files and sizes."""
    return list_uploads(parts.settings)


@router.put(
    "/models/{name}/{file}",
    status_code=201,
    tags=["models"],
    max_body_size=2**62,
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)
async def upload(
    name: _Name, file: _Name, *, request: Request, parts: Parts, _: Caller
) -> dict[str, Any]:
    """Upload one file of a model: safetensors, configuration or tokenizer."""
    return await receive(parts.settings, name, file=file, body=request.stream())
