"""The Open Inference Protocol, version 2, over REST: health, metadata, inference on tensors."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel

from pocketvit import __version__
from pocketvit.errors import DataError
from pocketvit.runtimes.model import Model
from pocketvit.serve.http.inference_queue import Check
from pocketvit.serve.http.oip import DATATYPES, EXTENSIONS, read_request, tensor_metadata, write_response
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.http.served import Served
from pocketvit.serve.http.services import Outcome, Services
from pocketvit.spec.preprocess import PIXELS, Pixels
from pocketvit.spec.tasks.base import Raw


class ErrorBody(BaseModel):
    """What went wrong."""

    error: str


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """It takes requests."""

    ready: bool


class ModelReady(BaseModel):
    """A model that takes requests."""

    name: str
    ready: bool


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output; -1 is a free size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be answered as it is."},
    503: {"model": ErrorBody, "description": "Not now: shutting down, out of time, or the model failed."},
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "examples": [PIXELS]},
        "shape": {"type": "array", "items": {"type": "integer"}, "examples": [[1, 1, 1, 3]]},
        "datatype": {"type": "string", "enum": sorted(DATATYPES.values())},
        "parameters": {"type": "object"},
        "data": {"type": "array", "description": "Flat or nested.", "items": {}, "examples": [[0, 127, 255]]},
    },
}
_INFER: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "maxLength": 1000},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
            },
        },
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": {**_TENSOR, "required": ["name", "shape", "datatype"]}},
    },
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
INFER: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"content": {"application/json": {"schema": _ANSWER}, "application/octet-stream": _BINARY}},
        **ERRORS,
    },
    "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": _INFER}}}},
}
Name = Annotated[str, Path(description="Name of a model, as its manifest states it.")]
Version = Annotated[str, Path(description="A version of it.")]
router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


def services_of(request: Request) -> Services:
    """Those of the application that a request came to."""
    found: Services = request.app.state.services
    return found


@router.get("", responses=ERRORS)
async def server_metadata(request: Request) -> ServerMetadata:
    """Name, version and extensions of the server."""
    return ServerMetadata(name="pocketvit", version=__version__, extensions=EXTENSIONS)


@router.get("/health/live")
async def live(request: Request) -> Live:
    """Whether the process answers; needs no token."""
    return Live(live=True)


@router.get("/health/ready", responses={503: {"model": Ready, "description": "It is shutting down."}})
async def ready(request: Request) -> Any:
    """Whether it takes requests; needs no token."""
    closing = services_of(request).door.closing
    return JSONResponse({"ready": not closing}, 503 if closing else 200)


@router.get("/models/{name}", responses=ERRORS)
async def model_metadata(request: Request, name: Name) -> ModelMetadata:
    """Versions, inputs and outputs of a model's current version."""
    return _metadata(services_of(request), name, None)


@router.get("/models/{name}/versions/{version}", responses=ERRORS)
async def version_metadata(request: Request, name: Name, version: Version) -> ModelMetadata:
    """Versions of a model, inputs and outputs of one of them."""
    return _metadata(services_of(request), name, version)


def _metadata(services: Services, name: str, version: str | None) -> ModelMetadata:
    served = services.models.find(name, version)
    manifest = served.model.manifest
    return ModelMetadata(
        name=name,
        versions=services.models.versions(name),
        platform=f"pocketvit_{served.model.target.runtime}",
        inputs=[TensorMetadata(**tensor_metadata(spec)) for spec in manifest.inputs],
        outputs=[TensorMetadata(**tensor_metadata(spec)) for spec in manifest.outputs],
        parameters={"task": served.task, "version": served.version, "digest": served.digest},
    )


@router.get("/models/{name}/ready", responses=ERRORS)
async def model_ready(request: Request, name: Name) -> ModelReady:
    """Whether a model takes requests."""
    return ModelReady(name=services_of(request).models.find(name).name, ready=True)


@router.get("/models/{name}/versions/{version}/ready", responses=ERRORS)
async def version_ready(request: Request, name: Name, version: Version) -> ModelReady:
    """Whether a version of a model takes requests."""
    return ModelReady(name=services_of(request).models.find(name, version).name, ready=True)


@router.post("/models/{name}/infer", **INFER)
async def infer(request: Request, name: Name) -> Response:
    """Run a model's current version on tensors: pixels in, its outputs as they are."""
    return await _infer(request, services_of(request).models.find(name))


@router.post("/models/{name}/versions/{version}/infer", **INFER)
async def version_infer(request: Request, name: Name, version: Version) -> Response:
    """Run a version of a model on tensors."""
    return await _infer(request, services_of(request).models.find(name, version))


async def _infer(request: Request, served: Served) -> Response:
    services, manifest = services_of(request), served.model.manifest
    kind = request.headers.get("content-type", "").partition("/")[0].strip().lower()
    if kind in ("image", "multipart", "audio", "video"):
        raise Refusal(415, f"send JSON, with or without binary tensors behind it; images go to /v1/{served.task}.")
    length = request.headers.get("inference-header-content-length")
    async with services.bodies.read(request.headers, request.receive) as body:

        def work(check: Check) -> Outcome:
            question = read_request(body, length, manifest.inputs, manifest.outputs)
            given = question.inputs[manifest.inputs[0].name][0]
            pixels: Pixels | None = given if PIXELS in question.inputs else None
            if pixels is not None and (area := pixels.shape[0] * pixels.shape[1]) > services.most_pixels:
                raise too_many(area, services.most_pixels)
            answers = _outputs(served.model, given, check)
            check()
            return Outcome(*write_response(question, served.name, served.version, answers, manifest.outputs), pixels)

        outcome = await services.run(request, served, work)
    return Response(outcome.content, headers=outcome.headers)


def too_many(area: int, most: int) -> Refusal:
    """Of an image above the limit of pixels."""
    return Refusal(413, f"{area / 1e6:.1f} megapixels are above the limit of {most / 1e6:g}.")


def _outputs(model: Model, given: NDArray[Any], check: Check) -> Raw:
    """What the file answers, not rounded to pixels as a tile's answer is; but a large image still runs in tiles."""
    if model.manifest.preprocess.multiple:
        return model.infer(given, check)
    answers = model.session.run({model.manifest.inputs[0].name: np.ascontiguousarray(given[None])})
    for name, value in answers.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DataError(f"output {name} holds NaN or infinity.", "Take another precision.")
    return answers
