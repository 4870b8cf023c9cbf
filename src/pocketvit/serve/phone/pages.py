"""The built phone app as routes: the page's own files, which anybody may have."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse, Response

from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.phone.app_files import TYPES, app_files, headers_of

PREFIX = "/phone"


def pages(folder: Path) -> APIRouter:
    """Every file of the app in ``folder`` below ``/phone/``; of more specific routes it stands last."""
    router, files = APIRouter(prefix=PREFIX, include_in_schema=False), app_files(folder)

    async def page(name: str = "") -> Response:
        if name not in files:
            raise Refusal(404, "the phone app has no such file.")
        path = files[name]
        if not path.is_file():  # built anew meanwhile
            raise Refusal(404, "the phone app has changed; load the page again.")
        return FileResponse(path, headers=headers_of(name), media_type=TYPES[path.suffix])

    async def to_page() -> Response:
        return RedirectResponse(f"{PREFIX}/", 308)

    router.add_api_route("", to_page)
    router.add_api_route("/", page)
    router.add_api_route("/{name:path}", page)
    return router
