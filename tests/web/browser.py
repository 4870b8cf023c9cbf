"""For tests of the phone app: Chromium with a video file as its camera, and what they ask the page."""

from __future__ import annotations

import base64
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from pocketvit.serve.http.server import listen
from pocketvit.serve.phone.routes import add_phone
from tests.serve.asking import app_of
from tests.tiny import noisy, photo

ROOT = Path(__file__).resolve().parents[2]
DIST, UNITS = ROOT / "web" / "dist", ROOT / "web" / "build" / "units.mjs"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
VIDEO = ROOT.parent / "shared" / "data" / "video" / "car-detection.mp4"
SHOTS = Path(os.environ.get("POCKETVIT_SHOTS", ROOT / "build" / "screenshots"))
SIZE = (240, 320)
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP phone.test 127.0.0.1"),
]


def need(*missing: tuple[str, bool]) -> None:
    """Skip where something is not there; fail instead where CI says that it must be."""
    gone = [name for name, there in missing if not there]
    if not gone:
        return
    why = f"not there: {', '.join(gone)} (make web; apt-get install chromium)"
    if os.environ.get("POCKETVIT_PHONE_TESTS") == "must":
        pytest.fail(why)
    pytest.skip(why)


def need_browser() -> None:
    need(("the built app", (DIST / "index.html").is_file()), ("chromium", Path(CHROMIUM).is_file()))
    pytest.importorskip("playwright")


def frames() -> list[np.ndarray]:
    """A few noisy (240, 320, 3) frames: of the sample video where it is there."""
    clean = [photo(*SIZE, seed=1)] * 4
    if VIDEO.is_file():
        av = pytest.importorskip("av")
        with av.open(str(VIDEO)) as container:
            rows = [frame for frame, _ in zip(container.decode(video=0), range(60))][::15]
        clean = [frame.reformat(SIZE[1], SIZE[0], "rgb24").to_ndarray() for frame in rows]
    return [noisy(one, 20, seed=i) for i, one in enumerate(clean)]


def write_y4m(path: Path, pictures: list[np.ndarray], fps: int = 10) -> Path:
    """(H, W, 3) uint8 pictures as a video that Chromium takes for a camera: 4:2:0, full range."""
    height, width = pictures[0].shape[:2]
    weights = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
        for picture in pictures:
            y, u, v = np.moveaxis(picture @ weights.T + [0, 128, 128], 2, 0)
            halved = [each.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for each in (u, v)]
            planes = (np.clip(np.rint(each), 0, 255).astype(np.uint8).tobytes() for each in (y, *halved))
            file.write(b"FRAME\n" + b"".join(planes))
    return path


@contextmanager
def chromium(camera: Path | None = None, *, allowed: bool = True, flags: Sequence[str] = ()) -> Iterator[Any]:
    """A browser; without ``camera`` it has none, and where it is not ``allowed`` nobody answers its question."""
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *flags] if flags else [*FLAGS, "--disable-gpu"]
    if camera is not None:
        flags += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"]
    if allowed:
        flags.append("--use-fake-ui-for-media-stream")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@contextmanager
def phone(browser: Any, url: str, query: str = "", held: str = "", **options: Any) -> Iterator[Any]:
    """The app on a phone's screen; what it throws fails the test. Requests for ``held`` wait in ``page.held``."""
    options = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "locale": "en-US", **options}
    context = browser.new_context(**options)
    context.set_default_timeout(90_000)  # a busy machine
    page = context.new_page()
    page.thrown = []
    page.on("pageerror", lambda error: page.thrown.append(str(error)))
    page.held = []
    if held:
        page.route(held, lambda route: page.held.append(route))
    page.goto(f"{url}/phone/{query}")
    yield page
    thrown = list(page.thrown)
    context.close()
    assert thrown == []


def until(page: Any, expression: str, seconds: float = 60) -> Any:
    """The value of an expression once it is true; the page's policy forbids Playwright's own way of waiting."""
    ends = time.monotonic() + seconds
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < ends, (expression, page.inner_text("main"), page.thrown)
        page.wait_for_timeout(40)
    return value


def ready(page: Any, seconds: float = 60) -> dict[str, Any]:
    """Wait until a model is open; what runs."""
    until(page, "!document.getElementById('camera').disabled", seconds)
    return status(page)["model"]


def status(page: Any) -> dict[str, Any]:
    return page.evaluate("pocketvit.status()")


def problem(page: Any, name: str, seconds: float = 60) -> str:
    """Wait for a problem or note; its text."""
    until(page, f"document.querySelector('[data-id={name}]') !== null", seconds)
    return page.inner_text(f"[data-id={name}]")


def start_camera(page: Any, answers: int = 2, side: int = 160) -> None:
    """Frames with at most ``side`` pixels a side, until some are answered: small ones leave the machine to others."""
    page.select_option("#size", str(side))
    page.click("#camera")
    until(page, f"pocketvit.status().answered >= {answers}")


def last_frame(page: Any) -> tuple[np.ndarray, np.ndarray]:
    """The last frame that was answered and its answer, (H, W, 3) uint8 each."""
    script = """() => {
      const text = (data) => {
        let all = "";
        for (let i = 0; i < data.length; i += 32768) all += String.fromCharCode(...data.subarray(i, i + 32768));
        return btoa(all);
      };
      const { frame, rgba } = pocketvit.lastFrame();
      return [frame.height, frame.width, text(frame.rgba), text(rgba)];
    }"""
    height, width, *pictures = page.evaluate(script)
    before, after = (np.frombuffer(base64.b64decode(one), np.uint8).reshape(height, width, 4) for one in pictures)
    return before[..., :3].copy(), after[..., :3].copy()


def shot(page: Any, name: str) -> None:
    """A screenshot for people to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@contextmanager
def in_thread(app: FastAPI) -> Iterator[str]:
    """The address of an application that a thread of this process serves, so that a test can change what it serves."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)


@contextmanager
def photo_done(model: Any, folder: Path) -> Iterator[tuple[Any, np.ndarray]]:
    """The page with ``model``'s answer to a photo, and that photo; its camera shows the same frames."""
    app, picture = app_of(model), frames()[0]
    add_phone(app, DIST)
    Image.fromarray(picture).save(folder / "photo.png")
    camera = write_y4m(folder / "camera.y4m", frames(), fps=5)
    with chromium(camera) as browser, in_thread(app) as url, phone(browser, url) as page:
        ready(page)
        page.set_input_files("#file", folder / "photo.png")
        until(page, "document.getElementById('status').textContent.startsWith('Photo done')")
        yield page, picture
