"""``GET /v1/drift``, its page, and ``POST /v1/feedback``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from pocketvit.serve.drift.collect import Collection
from pocketvit.serve.drift.page import page
from pocketvit.serve.drift.report import report
from pocketvit.serve.drift.watcher import Watcher
from pocketvit.serve.http.bodies import disconnected, files_in
from pocketvit.serve.http.inference_queue import Check
from pocketvit.serve.http.refusal import Refusal, refusal_of
from pocketvit.serve.http.routes_v1 import decoded
from pocketvit.serve.http.routes_v2 import ERRORS, services_of

_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "Cache-Control": "no-store"}
_FILE = {"type": "string", "format": "binary"}
_PROPERTIES = {"image": {**_FILE, "description": "The photo."}, "target": {**_FILE, "description": "What is right."}}
_FORM = {"schema": {"type": "object", "required": ["image"], "properties": _PROPERTIES}}
_BODY: dict[str, Any] = {"required": True, "content": {"multipart/form-data": _FORM}}


def drift_routes(watcher: Watcher) -> APIRouter:
    """The addresses that tell what was watched."""
    router = APIRouter(prefix="/v1/drift", tags=["Operation"])

    @router.get("", responses=ERRORS)
    async def drift() -> dict[str, Any]:
        """Statistics of photos, answers and times against their reference, and what has changed, for each model."""
        return await run_in_threadpool(report, watcher)

    @router.get("/page", response_class=HTMLResponse, responses=ERRORS)
    async def drift_page() -> HTMLResponse:
        """The same with plots."""
        text = await run_in_threadpool(lambda: page(watcher, report(watcher)))
        return HTMLResponse(text, headers=_POLICY)

    return router


def feedback_routes(collection: Collection) -> APIRouter:
    """The address that takes corrections."""
    router = APIRouter(prefix="/v1", tags=["Operation"])

    @router.post("/feedback", status_code=201, responses={**ERRORS}, openapi_extra={"requestBody": _BODY})
    async def feedback(
        request: Request,
        model: Annotated[str, Query(description="Name of the model that was wrong.")],
        label: Annotated[str | None, Query(description="The right class of the finest level, or its path.")] = None,
        version: Annotated[str | None, Query(description="The version that was wrong.")] = None,
    ) -> dict[str, Any]:
        """Keep a photo with the right answer, to train on later: its class, or the picture that should have come."""
        services = services_of(request)
        served = services.models.find(model, version)
        collection.check(served, label)
        async with services.bodies.read(request.headers, request.receive) as body:

            def work(check: Check) -> dict[str, Any]:
                files = files_in(body, request.headers.get("content-type", ""))
                pictures = {name: decoded(content, services.most_pixels) for name, content in files.items()}
                check()
                return collection.add(served, pictures, label)

            seconds = services.limits.request_seconds
            try:
                return await services.queue.run(work, seconds, lambda: disconnected(request.receive))
            except Refusal:
                raise
            except Exception as error:
                raise refusal_of(error) from error

    return router
