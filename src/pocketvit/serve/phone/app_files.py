"""Where the built phone app is, and how its files are sent.

It is no part of the wheel: ONNX Runtime's WASM files alone are larger than the wheel may be. A checkout has it in
``web/dist`` once it is built; elsewhere a folder is named, or the data package ``pocketvit_web`` is installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pocketvit.errors import UsageError

INDEX, SERVICE_WORKER = "index.html", "sw.js"
PACKAGE = "pocketvit_web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Stated here and not guessed: a browser runs no script of another type, and systems disagree on ``.mjs``."""
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
}
"""The first three are what shared memory needs, and with it threads; the page loads nothing from elsewhere."""
_FRESH, _KEPT = "no-cache", "public, max-age=31536000, immutable"


def find_app(folder: str | None = None) -> Path:
    """The folder of the built app.

    Args:
        folder: where it is; by default the checkout's ``web/dist``, or the package ``pocketvit_web``.

    Raises:
        UsageError: it is not there, or not built.
    """
    if folder is not None:
        return _checked(Path(folder), "Name the folder that `make web` made (web/dist) with --phone_app.")
    places = [Path(__file__).resolve().parents[4] / "web" / "dist"]
    spec = importlib.util.find_spec(PACKAGE)
    places += [Path(place) for place in (spec.submodule_search_locations or [])] if spec is not None else []
    for place in places:
        if (place / INDEX).is_file():
            return place
    todo = "Run `make web` in a checkout (it needs Node.js), and name its web/dist with --phone_app elsewhere."
    raise UsageError("the phone app is not built, or not on this machine.", todo)


def _checked(folder: Path, todo: str) -> Path:
    if not (folder / INDEX).is_file():
        raise UsageError(f"{folder}: holds no built phone app ({INDEX} is missing).", todo)
    return folder


def app_files(folder: Path) -> dict[str, Path]:
    """All files of the app that are sent, by their path in the address; nothing else of the disk can be asked for."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in TYPES)
    table = {path.relative_to(folder).as_posix(): path for path in found}
    return {"": table[INDEX], **table}


def headers_of(name: str) -> dict[str, str]:
    """Headers of a file of the app: those with a digest in their name may be kept for ever."""
    return {**HEADERS, "Cache-Control": _KEPT if name.startswith("assets/") else _FRESH}
