"""Routes below /v1 for devices, databases, predictions and uploaded models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter

from autotune.core.errors import AutotuneError
from autotune.core.option_names import spell
from autotune.layers.options import PredictOptions
from autotune.service.catalogue import describe_database, describe_device, describe_devices
from autotune.service.prediction_records import Question
from autotune.service.presence import while_connected
from autotune.service.state import Caller, Owner, Parts
from autotune.service.uploads import list_uploads, remove_upload
from autotune.service.views import Answer, EstimateView, PredictionRequest, layer_of
from autotune.service.writing import in_writers

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
async def predict(
    body: PredictionRequest, parts: Parts, *, request: Request, _: Caller, owner: Owner
) -> Answer:
    """Predict the latency of up to 1,000 layers on a device, whether or not it is present."""
    try:
        question = Question(
            device=body.device,
            backend=body.backend,
            dtype=body.dtype,
            shapes=tuple(layer_of(shape) for shape in body.shapes),
            allow_extrapolation=body.allow_extrapolation,
        )
        found = await while_connected(request, parts.predictions.answer(owner, question))
    except AutotuneError as error:
        raise spell(error, "api", PredictOptions) from None
    estimates = [EstimateView(**one.to_json()) for one in found.estimates]
    return Answer(**{**found.to_json(), "estimates": estimates})


@router.get("/models", tags=["models"])
def models(parts: Parts, _: Caller) -> list[dict[str, Any]]:
    """List the uploaded models with their files and sizes."""
    return list_uploads(parts.settings)


@router.put(
    "/models/{name}/{file:path}",
    status_code=201,
    tags=["models"],
    max_body_size=2**62,
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)
async def upload(
    name: _Name, file: _Name, *, request: Request, parts: Parts, caller: Caller
) -> dict[str, Any]:
    """Upload one file of a model: safetensors, configuration, tokenizer, or `1_Pooling/…`."""
    length = request.headers.get("Content-Length", "")
    return await parts.uploads.receive(
        caller,
        name=name,
        file=file,
        body=request.stream(),
        declared=int(length) if length.isdecimal() else None,
    )


@router.delete("/models/{name}", status_code=204, tags=["models"])
@in_writers
def delete_model(name: _Name, parts: Parts, *, _: Caller) -> None:
    """Delete an uploaded model; refused while a job that has not ended uses it."""
    remove_upload(parts.settings, parts.database, name=name)
