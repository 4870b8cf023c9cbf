from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pocketvit.errors import UsageError
from pocketvit.serve.streaming.drawing import beside, captioned, onto, painter
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.classify import Classification, Level
from pocketvit.spec.tasks.restore import Restored
from tests.tiny import photo


def path_answer() -> Classification:
    coarse = Level("coarse", ("warm", "cold"), np.array([0.9, 0.1], np.float32), 0)
    fine = Level("fine", ("red", "blue"), np.array([0.7, 0.3], np.float32), 0)
    return Classification((coarse, fine))


def test_a_restored_frame_stands_beside_the_original() -> None:
    source, restored = photo(40, 60), photo(40, 60, seed=1)
    both = painter(TASKS["restore"], None, True)(Restored(restored), source)
    np.testing.assert_array_equal(both, np.concatenate([source, restored], axis=1))
    np.testing.assert_array_equal(painter(TASKS["restore"], None, False)(Restored(restored), source), restored)


def test_labels_are_written_on_the_frame_with_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    source = photo(240, 320)
    drawn = painter(TASKS["classify"], None, True)(path_answer(), source)
    assert drawn.shape == source.shape
    changed = np.flatnonzero((drawn != source).any(axis=(1, 2)))
    assert 200 < changed.min() < 235  # a bar along the lower edge, the rest as it was
    bright = (drawn[changed.min() :] > 200).all(axis=2).mean()
    assert 0.01 < bright < 0.5  # letters
    other = captioned(source, "something else")
    assert (other != drawn).any()
    assert "warm 90.0 % > red 70.0 %" in path_answer().line


@pytest.mark.parametrize("size", [(2, 2), (30, 40), (1080, 1920)])
def test_captions_fit_frames_of_any_size(size: tuple[int, int]) -> None:
    source = photo(*size)
    before = source.copy()
    assert captioned(source, "a very long path > of labels > that goes on and on 99.9 %").shape == source.shape
    np.testing.assert_array_equal(source, before)


def test_a_long_caption_gets_smaller_letters() -> None:
    source = np.full((440, 400, 3), 128, np.uint8)
    heights = []
    for text in ("short", "a caption that is longer than a frame of four hundred pixels is wide"):
        drawn = captioned(source, text)
        heights.append(int((drawn != 128).any(axis=(1, 2)).sum()))
    assert heights[1] < heights[0]
    assert (drawn[:, -6:] > 200).all(axis=2).sum() == 0  # nothing runs off the edge


def test_another_height_is_fitted() -> None:
    assert beside(photo(40, 60), photo(80, 60)).shape == (40, 90, 3)


@pytest.mark.parametrize("wrong", [SimpleNamespace(), SimpleNamespace(draw=lambda source: np.zeros((4, 4)))])
def test_what_cannot_be_drawn_is_a_clear_error(wrong: Any) -> None:
    with pytest.raises(UsageError, match="answers of task restore cannot be drawn") as error:
        painter(TASKS["restore"], None, True)(wrong, photo(20, 20))
    assert "output" in error.value.todo


def test_pictures_are_brought_onto_the_canvas() -> None:
    picture = photo(47, 63)
    same = onto(picture, (48, 64))
    np.testing.assert_array_equal(same[:47, :63], picture)
    assert onto(same, (48, 64)) is same
    wide = onto(np.full((20, 80, 3), 255, np.uint8), (48, 64))
    assert wide.shape == (48, 64, 3)
    assert (wide[16:32] == 255).all()
    assert not wide[:16].any()
    assert not wide[32:].any()
