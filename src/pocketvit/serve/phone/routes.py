"""What a phone asks for: the app, what there is (``config.json``), descriptions and files of the models.

The app itself is public, for a page cannot send a token before it is loaded; the rest needs the server's token.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from pocketvit import __version__
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.http.served import Served
from pocketvit.serve.http.services import Services
from pocketvit.serve.phone.app_files import HEADERS
from pocketvit.serve.phone.pages import PREFIX, pages
from pocketvit.spec.artifact import MANIFEST, sha256

_FRESH = {**HEADERS, "Cache-Control": "no-cache"}
_NAMES = ("config.json", "models/")
"""Below the prefix: not of the app."""


def add_phone(app: FastAPI, folder: Path) -> None:
    """Serve the built app in ``folder``, and the models of ``app.state.services``, below ``/phone/``."""
    services: Services = app.state.services
    services.door.public = is_public
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    router.add_api_route("/config.json", _config)
    router.add_api_route("/models/{name}/channel.json", _description)
    router.add_api_route("/models/{name}/{version}/files/{path:path}", _file)
    app.include_router(router)
    app.include_router(pages(folder))


def is_public(path: str) -> bool:
    """Whether a path is of the app itself."""
    rest = path.removeprefix(f"{PREFIX}/")
    return path == PREFIX or (rest != path and not rest.startswith(_NAMES))


async def _config(request: Request) -> Response:
    services: Services = request.app.state.services
    current = [services.models.current(name) for name in services.models.names()]
    models = [_about(services, served) for served in current if served.model.artifact is not None]
    keys = [key.pem for key in services.update_keys]
    return JSONResponse({"server": __version__, "models": models, "keys": keys}, headers=_FRESH)


def _about(services: Services, served: Served) -> dict[str, Any]:
    manifest, description = served.model.manifest, description_of(services, served)
    return {
        "name": served.name,
        "version": served.version,
        "task": served.task,
        "title": served.name,
        "bytes": sum(entry.bytes for entry in manifest.files),
        "manifest_sha256": _digest(served.model.path / MANIFEST),
        "description": None if description is None else description.decode("ascii"),
    }


def description_of(services: Services, served: Served) -> bytes | None:
    """The signed description that ``served`` came with; None where it came over no channel."""
    channel = services.channels.get(served.name)
    if channel is None or channel.current.path != served.model.path:  # the channel is ahead for a moment
        return None
    content = channel.current.description
    return content if content and content.isascii() else None


@functools.lru_cache(maxsize=256)
def _sha256_at(path: Path, changed: int) -> str:
    return sha256(path)


def _digest(path: Path) -> str:
    return _sha256_at(path, path.stat().st_mtime_ns)


async def _description(request: Request, name: str) -> Response:
    services: Services = request.app.state.services
    content = description_of(services, services.models.current(name))
    if content is None:
        raise Refusal(404, f"{name[:80]} came over no channel: it has no signed description.")
    return Response(content, headers=_FRESH, media_type="application/json")


async def _file(request: Request, name: str, version: str, path: str) -> Response:
    """A file that the manifest lists, or the manifest itself; versions with a new content have a new version."""
    services: Services = request.app.state.services
    served = services.models.find(name, version)
    listed = {entry.path for entry in served.model.manifest.files} | {MANIFEST}
    file = served.model.path / path
    if served.model.artifact is None or path not in listed or not file.is_file():
        raise Refusal(404, f"{name[:80]} {version[:80]} has no such file.")
    return FileResponse(file, headers=_FRESH, media_type="application/octet-stream")
