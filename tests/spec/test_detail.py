"""Windows with most detail, and the panels that show restored photos pixel for pixel."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from pocketvit.report.data import ReportData
from pocketvit.report.html import render_html
from pocketvit.spec.detail import best_window, cut, detail
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.restore import OVERVIEW, PANEL, Restored
from tests.tiny import noisy


def busy(height: int, width: int, top: int, left: int) -> np.ndarray:
    image = np.full((height, width, 3), 120, np.uint8)
    image[top : top + 120, left : left + 120] = np.random.default_rng(0).integers(0, 255, (120, 120, 3), np.uint8)
    return image


def test_the_window_holds_the_detail() -> None:
    image = busy(600, 900, 400, 640)
    top, left, height, width = best_window(detail(image), (600, 900), (256, 256))
    assert (height, width) == (256, 256)
    assert top <= 400
    assert top + 256 >= 520
    assert left <= 640
    assert left + 256 >= 760


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (40, 13), (100, 100)])
def test_windows_lie_inside_photos_of_every_size(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 9, np.uint8)
    box = best_window(detail(image), size, (64, 64))
    assert cut(image, box).shape == (min(64, size[0]), min(64, size[1]), 3)


def test_of_equal_windows_the_middle_one() -> None:
    assert best_window(np.ones((64, 64), np.float32), (512, 512), (256, 256))[:2] == (128, 128)


def test_panels_show_one_crop_of_all_three_and_where_it_is() -> None:
    truth = busy(600, 900, 400, 640)
    image, restored = noisy(truth, seed=1), noisy(truth, seed=2)
    panels = TASKS["restore"].panels(image, Restored(restored), truth, ())
    assert [name for name, _ in panels] == ["input", "restored", "truth", "where it is"]
    box = best_window(detail(truth), (600, 900), (PANEL, PANEL))
    for (_, panel), whole in zip(panels, (image, restored, truth), strict=False):
        assert (panel == cut(whole, box)).all()
    assert max(panels[3][1].shape) == OVERVIEW
    small = TASKS["restore"].panels(image[:200, :250], Restored(restored[:200, :250]), truth[:200, :250], ())
    assert [pixels.shape for _, pixels in small] == [(200, 250, 3)] * 3


def test_the_page_holds_the_panels_pixel_for_pixel() -> None:
    truth = busy(600, 900, 400, 640)
    panels = TASKS["restore"].panels(noisy(truth), Restored(truth), truth, ())
    page = render_html(ReportData("t", "restore", "psnr", "dB", pictures=[("photo", panels)]))
    assert "image-rendering:pixelated" in page
    found = re.findall(r'style="width:(\d+)px" src="data:image/png;base64,([^"]+)"', page)
    assert len(found) == 4
    for (width, data), (_, pixels) in zip(found, panels, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert (np.asarray(image) == pixels).all()
            assert int(width) == image.width
