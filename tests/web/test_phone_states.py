"""Every state of the page, reached on purpose: what it says, what still works, in two languages, by keys alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

import pocketvit
from pocketvit.runtimes.model import load
from pocketvit.serve.phone.routes import add_phone
from pocketvit.spec.depth_stream import DepthStream
from tests.serve.asking import app_of, server
from tests.tiny import coloured, make_tiny_artifact
from tests.web import browser as web
from tests.web.artifacts import make_depth_artifact, make_huge_artifact

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-enough-length"
DAMAGE = """() => new Promise((resolve, reject) => {
  const request = indexedDB.open("pocketvit");
  request.onerror = reject;
  request.onsuccess = () => {
    const transaction = request.result.transaction("files", "readwrite"), files = transaction.objectStore("files");
    files.openCursor().onsuccess = ({ target: { result: cursor } }) => {
      if (!cursor) return;
      if (String(cursor.key).endsWith(".onnx")) {
        const bytes = cursor.value;
        bytes[bytes.length >> 1] ^= 1;
        cursor.update(bytes);
      }
      cursor.continue();
    };
    transaction.oncomplete = () => resolve(true);
  };
})"""


def phone_app(*artifacts: Path, token: str | None = None) -> FastAPI:
    app = app_of(*(load(path) for path in artifacts), token=token)
    add_phone(app, web.DIST)
    return app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    web.need_browser()
    folder = tmp_path_factory.mktemp("models")
    make_tiny_artifact(folder / "restore")
    make_tiny_artifact(folder / "classify", "classify")
    make_depth_artifact(folder / "depth")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with web.in_thread(phone_app(*(folder / name for name in ("restore", "classify", "depth")))) as url:
        yield url


@pytest.fixture(scope="module")
def chromium(folder: Path) -> Iterator[Any]:
    with web.chromium(web.write_y4m(folder / "camera.y4m", web.frames(), fps=5)) as one:
        yield one


def assert_same(picture: np.ndarray, wanted: np.ndarray) -> None:
    """Engines add up in another order: a value at a half may fall to the other side."""
    apart = np.abs(picture.astype(int) - wanted)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.002


def choose_photo(page: Any, picture: np.ndarray, folder: Path) -> None:
    Image.fromarray(picture).save(folder / "photo.png")
    page.set_input_files("#file", folder / "photo.png")
    web.until(page, "document.getElementById('status').textContent.includes(' ms')")


def test_a_camera_that_is_not_allowed_and_one_that_is_not_there(url: str, tmp_path: Path) -> None:
    with web.chromium() as bare, web.phone(bare, url) as page:
        web.ready(page)
        page.click("#camera")
        assert "There is no camera" in web.problem(page, "camera")
        assert page.get_attribute("#problems", "role") == "alert"
        web.shot(page, "no-camera")
        busy = "Promise.reject(new DOMException('in use', 'NotReadableError'))"
        page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = () => {busy}; }}")
        page.click("[data-id=camera] button")
        web.until(page, "document.querySelector('[data-id=camera]').textContent.includes('cannot be opened')")
        choose_photo(page, web.frames()[0], tmp_path)  # photos work without
        assert page.query_selector("[data-id=camera]") is None
        assert web.last_frame(page)[1].shape == (*web.SIZE, 3)
    with (
        web.chromium(web.write_y4m(tmp_path / "c.y4m", web.frames()), allowed=False) as shy,
        web.phone(shy, url) as page,
    ):
        web.ready(page)
        page.click("#camera")
        assert "The camera is not allowed" in web.problem(page, "camera")
        web.shot(page, "camera-denied")
        page.context.grant_permissions(["camera"])
        page.click("[data-id=camera] button")
        web.until(page, "pocketvit.status().answered > 0")
        assert page.query_selector("[data-id=camera]") is None


def test_without_isolation_it_runs_on_one_thread_and_says_so(chromium: Any, url: str) -> None:
    context = chromium.new_context(service_workers="block", permissions=["camera"])
    page = context.new_page()

    def strip(route: Any) -> None:
        answer = route.fetch()
        headers = {name: value for name, value in answer.headers.items() if not name.startswith("cross-origin-")}
        route.fulfill(response=answer, headers=headers)

    page.route("**/phone/", strip)
    page.thrown = []
    page.goto(f"{url}/phone/")
    assert web.ready(page)["threads"] == 1
    assert not page.evaluate("crossOriginIsolated")
    assert "One thread only" in web.problem(page, "not_isolated")
    assert "1 thread" in page.inner_text("#engine")
    web.start_camera(page)
    web.shot(page, "not-isolated")
    context.close()


def test_an_address_that_is_not_secure(chromium: Any, url: str) -> None:
    with web.phone(chromium, url.replace("127.0.0.1", "phone.test")) as page:
        assert "--tls auto" in web.problem(page, "insecure")
        assert page.is_disabled("#camera")
        web.shot(page, "insecure")


def test_a_certificate_that_the_browser_does_not_trust(chromium: Any, folder: Path, tmp_path: Path) -> None:
    """Who goes on past the warning has camera and threads; browsers keep no app of such a server."""
    options = ("--phone", "--tls", "auto", "--tls_folder", tmp_path)
    with server(folder / "restore", *options) as one, web.phone(chromium, one.url, ignore_https_errors=True) as page:
        assert one.url.startswith("https://")
        assert web.ready(page, 240)["threads"] >= 1  # a worker that hangs as it starts is started again
        assert page.evaluate("crossOriginIsolated")
        assert "Not kept for offline use" in web.problem(page, "not_kept")
        web.shot(page, "not-kept")


def test_a_server_that_is_silent_keeps_nobody_waiting(chromium: Any, folder: Path) -> None:
    """As in another network, where nobody answers and nobody refuses."""
    with server(folder / "restore", "--phone") as one, web.phone(chromium, one.url) as page:
        web.ready(page)
        web.until(page, "navigator.serviceWorker.controller !== null")
        one.process.send_signal(signal.SIGSTOP)
        page.reload()
        web.ready(page)
        assert "Offline" in web.problem(page, "offline")
        one.process.send_signal(signal.SIGCONT)
        page.click("#update")
        web.until(page, "document.querySelector('[data-id=offline]') === null")


def test_a_download_shows_how_far_it_is(chromium: Any, url: str) -> None:
    with web.phone(chromium, url, held="**/model.onnx", service_workers="block") as page:
        web.until(page, "document.getElementById('progress').value > 0")
        assert page.is_visible("#progress")
        assert page.inner_text("#status") == "Downloading tiny-restore 0.1.0…"
        have, _, whole = page.inner_text("#progress-text").partition(" of ")
        assert have.endswith(("kB", "MB"))
        assert whole.endswith(("kB", "MB"))
        assert page.is_disabled("#camera")
        web.shot(page, "download")
        page.held[0].continue_()
        web.ready(page)
        assert not page.is_visible("#progress")
        assert page.inner_text("#model-version") == "0.1.0"


def test_too_little_memory(chromium: Any, tmp_path: Path) -> None:
    make_huge_artifact(tmp_path / "huge")
    with web.in_thread(phone_app(tmp_path / "huge")) as url, web.phone(chromium, url) as page:
        assert "Too little memory" in web.problem(page, "memory_out")
        assert page.is_disabled("#camera")
        web.shot(page, "out-of-memory")


def test_a_damaged_model_is_not_run_and_fetched_again(chromium: Any, url: str) -> None:
    with web.phone(chromium, url) as page:
        web.ready(page)
        web.until(page, "navigator.serviceWorker.controller !== null")
        assert page.evaluate(DAMAGE)
        page.context.set_offline(True)
        page.reload()
        assert "The model is damaged" in web.problem(page, "damaged")
        assert "There is no model yet" in web.problem(page, "no_model")
        assert page.is_disabled("#camera")
        web.shot(page, "damaged-offline")
        page.context.set_offline(False)
        page.click("[data-id=no_model] button")
        web.ready(page)
        assert page.query_selector(".problem") is None


def test_a_server_with_a_token_asks_for_it_or_takes_it_from_the_code(chromium: Any, folder: Path) -> None:
    with web.in_thread(phone_app(folder / "restore", token=TOKEN)) as url:
        with web.phone(chromium, url) as page:
            assert "The server wants its token" in web.problem(page, "token")
            web.shot(page, "token")
            page.fill("#token-field", "not the right one")
            page.press("#token-field", "Enter")
            page.wait_for_timeout(200)
            assert page.is_disabled("#camera")
            page.fill("#token-field", TOKEN)
            page.press("#token-field", "Enter")
            web.ready(page)
            assert page.query_selector("[data-id=token]") is None
        with web.phone(chromium, url, f"#token={TOKEN}") as page:
            web.ready(page)
            assert page.url == f"{url}/phone/"


def test_photos_and_strength_and_the_sliders_by_keys(chromium: Any, url: str, folder: Path, tmp_path: Path) -> None:
    with web.phone(chromium, url) as page:
        web.ready(page)
        model, picture = pocketvit.load(folder / "restore"), web.frames()[0]
        choose_photo(page, picture, tmp_path)
        before, after = web.last_frame(page)
        np.testing.assert_array_equal(before, picture)
        assert_same(after, model(picture).image)
        page.focus("#strength")
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        assert page.inner_text("#strength-value") == "0.6"
        web.until(page, "!pocketvit.status().busy")
        assert_same(web.last_frame(page)[1], model(picture, strength=0.6).image)
        page.focus("#compare")
        page.keyboard.press("Home")
        assert page.evaluate("document.getElementById('pictures').style.getPropertyValue('--cut')") == "0%"
        (tmp_path / "no.png").write_bytes(b"no picture")
        for _ in range(2):  # announced the second time too
            page.evaluate("scrollTo(0, 0); document.getElementById('status').textContent = ''")
            page.set_input_files("#file", tmp_path / "no.png")
            web.until(page, "document.getElementById('status').textContent.includes('no picture')")
            assert page.get_attribute("#status", "class") == "bad"
            box, height = page.locator("#status").bounding_box(), page.viewport_size["height"]
            assert 0 <= box["y"] < box["y"] + box["height"] <= height
        web.shot(page, "no-picture")
        choose_photo(page, picture, tmp_path)
        assert page.get_attribute("#status", "class") == ""


def test_labels_with_their_path_and_depth_in_colours(chromium: Any, url: str, folder: Path, tmp_path: Path) -> None:
    with web.phone(chromium, url, color_scheme="dark") as page:
        web.ready(page)
        page.select_option("#choose", "tiny-classify")
        web.until(page, "pocketvit.status().model?.name === 'tiny-classify'")
        picture = coloured(3)
        choose_photo(page, picture, tmp_path)
        answer = pocketvit.load(folder / "classify")(picture)
        path = " › ".join(f"{level.label} {100 * level.score:.1f} %" for level in answer.levels)
        assert page.inner_text("#answer .path") == path
        rows = page.locator("#answer li").all_inner_texts()
        assert [row.split("\n")[0] for row in rows] == [label for label, _ in answer.levels[-1].top(4)]
        web.shot(page, "labels-dark")
        page.select_option("#choose", "tiny-depth")
        web.until(page, "pocketvit.status().model?.name === 'tiny-depth'")
        picture = web.frames()[0]
        choose_photo(page, picture, tmp_path)
        model = pocketvit.load(folder / "depth")
        wanted = DepthStream(0.0).draw(model(picture), picture)
        assert_same(web.last_frame(page)[1], wanted)
        assert page.inner_text("#answer .scale").count(" m") == 2
        web.shot(page, "depth-dark")


def test_spanish_names_keys_and_what_it_is_for_screen_readers(chromium: Any, url: str) -> None:
    with web.phone(chromium, url, locale="es-MX") as page:
        web.ready(page)
        assert page.get_attribute("html", "lang") == "es"
        assert page.inner_text("#camera") == "Encender cámara"
        web.shot(page, "spanish")
        names = page.evaluate("""() => [...document.querySelectorAll("button, select, input:not([type=file])")]
          .filter((each) => each.checkVisibility() && !each.hidden)
          .map((each) => each.labels?.[0]?.textContent || each.ariaLabel || each.textContent.trim())""")
        assert len(names) >= 6
        assert all(names)
        page.select_option("#language", "en")
        assert page.inner_text("#camera") == "Start camera"
        page.reload()
        web.ready(page)
        assert page.inner_text("#camera") == "Start camera"
        reached = set()
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert {"language", "camera", "photo", "update", "size", "choose"} <= reached
        assert page.get_attribute("#status", "role") == "status"
        manifest = page.evaluate("fetch('manifest.webmanifest').then((answer) => answer.json())")
        assert (manifest["start_url"], manifest["display"]) == ("./", "standalone")
        for icon in manifest["icons"]:
            size = page.evaluate(
                "async (src) => { const b = await createImageBitmap(await (await fetch(src)).blob());"
                " return `${b.width}x${b.height}`; }",
                icon["src"],
            )
            assert size == icon["sizes"]
