"""WebGPU, drawn by Chromium's own software: taken where it agrees with WebAssembly on the golden pictures, else not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pocketvit
from pocketvit.runtimes.model import load
from pocketvit.serve.phone.routes import add_phone
from tests.serve.asking import app_of
from tests.tiny import make_tiny_artifact
from tests.web import browser as web
from tests.web.artifacts import make_wild_artifact

pytestmark = pytest.mark.slow
SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-angle=swiftshader")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    web.need_browser()
    camera = web.write_y4m(tmp_path_factory.mktemp("camera") / "noisy.y4m", web.frames(), fps=5)
    with web.chromium(camera, flags=SOFTWARE) as one:
        yield one


def opened(page: Any) -> None:
    """Wait until a model is open and WebGPU was tried; skip where the browser has none."""
    web.ready(page)
    if not page.evaluate("navigator.gpu ? navigator.gpu.requestAdapter().then((found) => found !== null) : false"):
        pytest.skip("this browser has no WebGPU, not even in software")
    web.until(page, "document.getElementById('engine').textContent.includes('WebGPU')")


def test_it_is_taken_where_it_agrees(chromium: Any, tmp_path: Path) -> None:
    app = app_of(load(make_tiny_artifact(tmp_path / "model").path))
    add_phone(app, web.DIST)
    with web.in_thread(app) as url, web.phone(chromium, url, permissions=["camera"]) as page:
        opened(page)
        assert web.status(page)["model"]["backend"] == "webgpu"
        assert "agrees with WebAssembly" in page.inner_text("#engine")
        web.start_camera(page, 1)
        before, after = web.last_frame(page)
        apart = np.abs(after.astype(int) - pocketvit.load(tmp_path / "model")(before).image)
        assert apart.max() <= 1
    with web.in_thread(app) as url, web.phone(chromium, url, "?gpu=0") as page:
        web.ready(page)
        assert web.status(page)["model"]["backend"] == "wasm"


def test_it_is_not_taken_where_it_answers_otherwise(chromium: Any, tmp_path: Path) -> None:
    app = app_of(load(make_wild_artifact(tmp_path / "model").path))
    add_phone(app, web.DIST)
    with web.in_thread(app) as url, web.phone(chromium, url, permissions=["camera"]) as page:
        opened(page)
        assert web.status(page)["model"]["backend"] == "wasm"
        assert "WebGPU is not used" in page.inner_text("#engine")
        assert "max_abs" in page.inner_text("#engine")
        web.start_camera(page, 1)
        before, after = web.last_frame(page)
        apart = np.abs(after.astype(int) - pocketvit.load(tmp_path / "model")(before).image)
        assert apart.max() <= 1
