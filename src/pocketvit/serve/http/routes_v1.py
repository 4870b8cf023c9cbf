"""Images in, answers for people out: ``POST /v1/{task}`` with a photo gives JSON or a picture.

Where the tail of a split model is served, features of its head come in place of photos.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel

from pocketvit.files import plain, scratch
from pocketvit.runtimes import parts
from pocketvit.runtimes.strength import check_strength
from pocketvit.serve.http.bodies import accepted, image_in
from pocketvit.serve.http.inference_queue import Check
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.http.routes_v2 import ERRORS, services_of, too_many
from pocketvit.serve.http.served import Served
from pocketvit.serve.http.services import Outcome, Services
from pocketvit.spec.features import MEDIA, decode
from pocketvit.spec.images import open_bytes, read_image
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Extra, Result, Wishes

PNG, JSON, NPY = "image/png", "application/json", "application/x-npy"
Form = Literal["json", "png", "values"]
_FILE = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["image"], "properties": {"image": _FILE}}},
        **{kind: {"schema": _FILE} for kind in ("image/jpeg", "image/png", "application/octet-stream", MEDIA)},
    },
}
_FORMS = {kind: {"schema": _FILE} for kind in (PNG, NPY)}
_OK: dict[int | str, dict[str, Any]] = {200: {"content": {JSON: {"schema": {"type": "object"}}, **_FORMS}}}
router = APIRouter(prefix="/v1", tags=["Images"])


class Listed(BaseModel):
    """A version of a model that is served."""

    name: str
    version: str
    current: bool
    task: str
    digest: str
    target: str


@dataclass(frozen=True)
class _Asked:
    """How an image is to be answered."""

    media: str
    top: int
    strength: float | None
    values: tuple[str, Extra] | None


@router.get("/models", responses=ERRORS)
async def models(request: Request) -> list[Listed]:
    """Every version of every model, the current ones first."""
    table = services_of(request).models
    rows = [
        Listed(
            name=one.name, version=one.version, current=one is table.current(one.name), task=one.task,
            digest=one.digest, target=str(one.model.target),
        )
        for one in table.all()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: not row.current)


@router.post("/{task}", response_class=Response, responses={**_OK, **ERRORS}, openapi_extra={"requestBody": _BODY})
async def answer(
    request: Request,
    task: Annotated[str, Path(description="What the model does: " + ", ".join(TASKS) + ".")],
    model: Annotated[str | None, Query(description="Name of a model, where several do this.")] = None,
    version: Annotated[str | None, Query(description="A version of it; the current one by default.")] = None,
    format: Annotated[Form | None, Query(description="Goes before the header Accept.")] = None,
    top: Annotated[int, Query(ge=1, le=1000, description="How many of the best classes are listed.")] = 5,
    strength: Annotated[float | None, Query(ge=0, le=2, description="Of a restorer: 1 is as trained.")] = None,
) -> Response:
    """Answer for one image file, as JSON or as a picture (PNG).

    `format=values` gives the values of a map as a file: of depth in metres millimetres as 16-bit PNG, of masks class
    indices as 8-bit PNG. The tail of a
    split model takes what its head has encoded (`application/x-pocketvit-features`), and answers as JSON.
    """
    services = services_of(request)
    content_type = request.headers.get("content-type", "")
    served = _chosen(services, task, model, version, _split_asked(content_type))
    check_strength(served.model.manifest, strength)
    split = served.model.manifest.split
    asked = _asked(served, request.headers.get("accept", ""), format, top, strength)
    _check_kind(served, content_type)
    async with services.bodies.read(request.headers, request.receive) as body:

        def work(check: Check) -> Outcome:
            began = time.perf_counter()
            if split is not None:
                return _of_features(served, asked, body, began)
            pixels = decoded(image_in(body, content_type), services.most_pixels)
            check()
            result = served.model(pixels, check, strength=strength)
            check()
            content, headers = _written(served, asked, result, pixels, began)
            return Outcome(content, headers, pixels, result)

        outcome = await services.run(request, served, work)
    return Response(outcome.content, headers=outcome.headers)


def _split_asked(content_type: str) -> str:
    """Which split features say that they are of; empty where they do not, and of photos."""
    kind, _, rest = content_type.partition(";")
    name, _, value = rest.strip().partition("=")
    asked = kind.strip().lower() == MEDIA and name.lower() == "split"
    return value.strip().strip('"').lower() if asked else ""


def _chosen(services: Services, task: str, name: str | None, version: str | None, split: str = "") -> Served:
    """The model of a request; of several tails the one that takes features of ``split``.

    Raises:
        Refusal: 404 where there is none, 400 where it is not said which of several.
    """
    found = services.models.of_task(task)
    if not found:
        served = ", ".join(dict.fromkeys(one.task for one in services.models.all()))
        raise Refusal(404, f"no model for {task[:40]!r} is served here; there is {served}.")
    if name is not None:
        one = services.models.find(name, version)
        if one.task != task:
            raise Refusal(404, f"{name} does {one.task}, not {task}: ask /v1/{one.task}.")
        return one
    if split:
        found = [one for one in found if one.half == ("tail", split)] or found
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise Refusal(400, f"several models do {task}: say which with ?model=, one of {names}.")
    return services.models.find(found[0].name, version)


def _asked(served: Served, accept: str, form: Form | None, top: int, strength: float | None) -> _Asked:
    """What the answer is to be; known before the body is read."""
    task = TASKS[served.task]
    offered: tuple[str, ...] = (PNG, JSON) if task.writes == "picture" else (JSON, PNG)
    if served.model.manifest.split is not None:
        if form not in (None, "json"):
            raise Refusal(400, f"{served.name} gets features and no photo to draw on; take json.")
        offered = (JSON,)
    if form != "values":
        media = {"png": PNG, "json": JSON}[form] if form else accepted(accept, offered)
        return _Asked(media, top, strength, None)
    extras: Mapping[str, Extra] = task.extras(Wishes(), served.model.manifest.config)
    if not extras:
        raise Refusal(400, f"answers of {served.name} have no values to write; take json or png.")
    suffix, write = next(iter(extras.items()))
    media = {".png": PNG, ".json": JSON}.get(suffix[suffix.rfind(".") :], NPY)
    return _Asked(media, top, strength, (suffix, write))


def _check_kind(served: Served, content_type: str) -> None:
    """Raise a ``Refusal`` where features come to what takes photos, or photos to what takes features."""
    split, features = served.model.manifest.split, content_type.partition(";")[0].strip().lower() == MEDIA
    if split is None and features:
        raise Refusal(415, f"{served.name} is a whole model and takes photos, not features.")
    if split is not None and split.is_head:
        text = (
            f"{served.name} is the head of a split model; post its features to a server of its tail (split {split.id})."
        )
        raise Refusal(400, text)
    if split is not None and not features:
        text = f"{served.name} is the tail of a split model and takes the features of its head ({MEDIA}), not photos."
        raise Refusal(415, text)


def _of_features(served: Served, asked: _Asked, body: bytes, began: float) -> Outcome:
    """The answer of a tail; beside it, for those who have no labels, how it is shown in a line and a table."""
    result = parts.answer(served.model, decode(body, parts.split_of(served.model, "tail")))
    shown = {"line": result.line, "cells": result.cells(asked.top)}
    headers = {"Content-Type": JSON, "X-Model": served.name, "X-Model-Version": served.version}
    return Outcome(_json({**_who(served, began), **result.to_dict(asked.top), **shown}), headers, None, result)


def _who(served: Served, began: float) -> dict[str, Any]:
    return {"model": served.name, "version": served.version, "ms": round(1e3 * (time.perf_counter() - began), 3)}


def decoded(content: bytes, most: int) -> Pixels:
    """(H, W, 3) uint8 of an image file; its header's size is looked at first."""
    with open_bytes(content, "the image") as image:
        area = image.width * image.height
        pixels = read_image(image) if area <= most else None
    if pixels is None:
        raise too_many(area, most)
    return pixels


def _written(
    served: Served, asked: _Asked, result: Result, pixels: Pixels, began: float
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer."""
    headers = {"Content-Type": asked.media, "X-Model": served.name, "X-Model-Version": served.version}
    if asked.values is not None:
        suffix, write = asked.values
        with scratch() as folder:
            write(folder / f"answer{suffix}", result, pixels)
            return (folder / f"answer{suffix}").read_bytes(), headers
    if asked.media == PNG:
        return _png(result.draw(pixels)), headers
    return _json({**_who(served, began), **result.to_dict(asked.top)}), headers


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(plain(document), ensure_ascii=False, allow_nan=False).encode()


def _png(pixels: Pixels) -> bytes:
    """Packed quickly: the network costs less than the time for the last per cent."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
