"""For tests of the phone's routes: a small stand-in for the built app, and a model's channel as the routes see it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from pocketvit.runtimes.model import load
from pocketvit.serve.phone.routes import add_phone
from tests.serve.asking import app_of

FILES = {
    "index.html": "<!doctype html><title>app</title>",
    "sw.js": "self.onfetch = null;",
    "manifest.webmanifest": "{}",
    "assets/main-a1b2.js": "export {};",
    "assets/engine-a1b2.mjs": "export {};",
    "assets/engine-a1b2.wasm": "\0asm",
    "icons/icon.png": "png",
    "notes.map": "not sent",
}


def built(folder: Path) -> Path:
    """A folder that looks like the built app."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def phone_app(folder: Path, *artifacts: Path, token: str | None = None) -> FastAPI:
    """A server of artifacts that hands out the stand-in."""
    app = app_of(*(load(path) for path in artifacts), token=token)
    add_phone(app, built(folder))
    return app


def channel_of(path: Path, description: bytes) -> Any:
    """What the routes look at of a channel."""
    return SimpleNamespace(current=SimpleNamespace(path=path, description=description))
