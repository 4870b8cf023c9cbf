"""The phone app in Chromium, as ``pocketvit serve --phone`` hands it out: camera, answers, offline, updates, states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pocketvit
from pocketvit.spec.metrics import psnr
from tests.serve.asking import server
from tests.web import browser as web

pytestmark = pytest.mark.slow
NOISE_LEFT = 0.6
"""Share of the noise that may remain of a still scene after denoising."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    web.need_browser()
    return web.write_y4m(tmp_path_factory.mktemp("camera") / "noisy.y4m", web.frames())


def roughness(picture: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels: mostly noise, where there is noise."""
    return float(np.abs(np.diff(picture.astype(np.float64), axis=1)).mean())


def test_it_denoises_the_camera_as_python_does_and_goes_on_without_a_network(clip: Path) -> None:
    """The page through the real command; then the network is cut, the server killed, and the page loaded again."""
    with web.chromium(clip) as chromium, server("denoise-photo", "--phone") as one:
        assert f"{one.url}/phone/" in "".join(one.other)
        with web.phone(chromium, one.url, permissions=["camera"]) as page:
            model = web.ready(page)
            assert (model["name"], model["variant"], model["backend"]) == ("denoise-photo", "onnxruntime:fp32", "wasm")
            assert page.evaluate("crossOriginIsolated")
            web.start_camera(page, 3, side=320)
            before, after = web.last_frame(page)
            assert before.shape == (*web.SIZE, 3)
            expected = pocketvit.load("denoise-photo", "onnxruntime:fp32:1")(before).image
            assert psnr(after, expected) >= 45
            assert roughness(after) < NOISE_LEFT * roughness(before)
            web.until(page, "parseFloat(document.getElementById('fps').textContent) > 0")
            assert page.inner_text("#p50").endswith(" ms")
            assert page.inner_text("#p90").endswith(" ms")
            found = web.status(page)
            assert found["answered"] + found["dropped"] <= found["came"] <= found["answered"] + found["dropped"] + 2
            web.shot(page, "camera-light")
            page.emulate_media(color_scheme="dark")
            web.shot(page, "camera-dark")
            web.until(page, "navigator.serviceWorker.controller !== null")
            page.context.set_offline(True)
            one.process.kill()
            page.reload()
            assert web.ready(page)["manifestSha256"] == model["manifestSha256"]
            assert page.evaluate("crossOriginIsolated")
            assert "Offline" in web.problem(page, "offline")
            web.start_camera(page)
            before, after = web.last_frame(page)
            assert roughness(after) < NOISE_LEFT * roughness(before)
            web.shot(page, "offline-dark")
