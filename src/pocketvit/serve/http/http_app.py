"""The web application of a server: routes, errors in the protocol's form, metrics, and a page that describes it all."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from pocketvit import __version__
from pocketvit.errors import PocketvitError
from pocketvit.serve.http import routes_updates, routes_v1, routes_v2
from pocketvit.serve.http.guard import Guard
from pocketvit.serve.http.refusal import Refusal, refusal_of
from pocketvit.serve.http.served import Models
from pocketvit.serve.http.services import Services
from pocketvit.serve.http.wrong import wrong_of
from pocketvit.serve.options import Limits

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56em;margin:2em auto;padding:0 1em}"
    "h2{font-size:1.1em;margin-top:2em}code{background:#8882;padding:.1em .3em}dt{font-weight:600}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}a{color:#8cf}}"
)


_NOTHING = {
    "/v1/drift": "nothing is watched here; start the server with --watch.folder FOLDER.",
    "/v1/feedback": "no corrections are taken here; start the server with --collect FOLDER.",
    "/phone": "the phone app is not handed out here; start the server with --phone.",
}
"""What is said of addresses that an option brings, where it is not given."""


def make_app(
    models: Models, limits: Limits | None = None, token: str | None = None, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """The application that answers with ``models``; ``app.state.services`` is what it works with.

    Args:
        models: may be changed (:meth:`Models.replace`) while it runs.
        limits: sizes, times and places.
        token: what clients must send as bearer token; None lets everybody in.
        routers: more routes, which go before those that all servers have.
    """
    services = Services(models, limits or Limits(), token)
    app = FastAPI(
        title="pocketvit",
        version=__version__,
        description="Vision models over HTTP.",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.services = services
    app.add_middleware(Guard, door=services.door, metrics=services.metrics)
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(PocketvitError, _refuse)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_routed)
    for router in routers:
        app.include_router(router)
    there = {getattr(route, "path", "") for route in app.routes}
    for path in ("/v1/drift", "/v1/feedback"):  # before the routes of tasks, which would take them for a task's name
        if path not in there:
            app.add_api_route(path, _off, methods=["GET", "POST"], include_in_schema=False)
    for router in (routes_v2.router, routes_v1.router, routes_updates.router):
        app.include_router(router)
    app.add_api_route("/metrics", _metrics, tags=["Operation"], **_TEXT)
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]
    return app


_TEXT: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **routes_v2.ERRORS},
}


async def _metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(routes_v2.services_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _docs(request: Request) -> HTMLResponse:
    return HTMLResponse(_page(request.app.openapi()))


async def _refuse(request: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body, refusal.status, refusal.headers, "application/json")


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _refuse(request, wrong_of(error))


async def _off(request: Request) -> Response:
    return await _refuse(request, Refusal(404, _NOTHING[request.url.path]))


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = str(error.detail)
    if error.status_code == 404:  # the phone app, where it is on, answers for all below it
        phone = f"{request.url.path}/".startswith("/phone/")
        text = _NOTHING["/phone"] if phone else "there is nothing here; /docs lists what there is."
    return await _refuse(request, Refusal(error.status_code, text, error.headers))


def _description(app: FastAPI) -> dict[str, Any]:
    """OpenAPI, with the names that are served as examples, and the token where one is needed."""
    if app.openapi_schema:
        return app.openapi_schema
    services: Services = app.state.services
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    served = services.models.all()
    names = [one.name for one in served]
    examples = {
        "name": names,
        "model": names,
        "version": [one.version for one in served],
        "task": list(dict.fromkeys(one.task for one in served)),
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in examples and parameter["in"] in ("path", "query"):
                    parameter["schema"]["examples"] = examples[parameter["name"]]
    if services.door.token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    app.openapi_schema = document
    return document


def _page(document: dict[str, Any]) -> str:
    """The description as a page that needs no script and nothing from elsewhere."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(document['info']['title'])}</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(document['info']['title'])} {document['info']['version']}</h1>",
        "<p>The same as a file for programs: <a href=openapi.json>openapi.json</a>.</p>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation.get('description', ''))}</p><dl>")
            for each in operation.get("parameters", []):
                example = each["schema"].get("examples", [])
                shown = f" For example <code>{html.escape(json.dumps(example[0]))}</code>." if example else ""
                where = html.escape(f"{each['name']} ({each['in']})")
                parts.append(f"<dt>{where}<dd>{html.escape(each.get('description', ''))}{shown}")
            kinds = operation.get("requestBody", {}).get("content", {})
            parts.append(f"<dt>body<dd>{html.escape(', '.join(kinds))}" if kinds else "")
            parts.append("</dl>")
    return "".join(parts)
