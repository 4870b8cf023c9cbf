"""Masks on the phone page: a photo and the camera in the colours that Python draws, the legend in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvit.runtimes.model import load
from tests.web import browser as web
from tests.web.segment_artifact import make_segment_artifact


@pytest.mark.slow
def test_masks_are_drawn_over_photos_and_frames(tmp_path: Path) -> None:
    web.need_browser()
    model = load(make_segment_artifact(tmp_path / "masks").path)
    with web.photo_done(model, tmp_path) as (page, picture):
        answer = model(picture)
        shown = web.last_frame(page)[1]
        apart = np.abs(shown.astype(int) - answer.tinted(picture)).max(axis=2)
        assert (apart > 0).mean() < 0.001, "engines add up in another order: a few pixels at a tie"
        rows = [row.split("\n") for row in page.locator("#answer .legend li").all_inner_texts()]
        assert rows == [[label, f"{100 * share:.1f} %"] for label, share in answer.ranked()]
        web.shot(page, "masks")
        web.start_camera(page)
        frame, drawn = web.last_frame(page)
        apart = np.abs(drawn.astype(int) - model(frame).tinted(frame)).max(axis=2)
        assert (apart > 0).mean() < 0.001
