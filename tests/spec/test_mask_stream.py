"""Masks of a stream: what trembles is held, what is new is taken, flicker is counted."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.errors import UsageError
from pocketvit.spec.mask_stream import MaskStream
from pocketvit.spec.tasks.segment import SEGMENT, Segmentation


def answer(share: np.ndarray) -> Segmentation:
    return Segmentation(np.stack([share, 1 - share]).astype(np.float32), ("a", "b"))


def test_what_trembles_is_held_and_flicker_is_counted() -> None:
    rng, follower, plain = np.random.default_rng(0), MaskStream(), MaskStream(0.0)
    for _ in range(20):
        unsure = answer(0.5 + rng.normal(0, 0.05, (12, 16)))
        follower.steady(unsure)
        assert np.array_equal(plain.steady(unsure).probs, unsure.probs)
    found, same = (each.to_dict()["flicker_percent"] for each in (follower, plain))
    assert found["pairs"] == 19
    assert found["before"] == same["before"] == same["after"] > 40
    assert found["after"] < 0.6 * found["before"]
    assert "change their class" in follower.line
    assert follower.to_dict()["smoothing"] == {"keep": 0.7}


def test_what_has_become_another_thing_is_taken_as_it_is() -> None:
    follower = MaskStream(0.9)
    first, second = answer(np.ones((4, 4))), answer(np.zeros((4, 4)))
    follower.steady(first)
    np.testing.assert_array_equal(follower.steady(second).probs, second.probs)
    blend = follower.steady(answer(np.full((4, 4), 0.5)))
    np.testing.assert_allclose(blend.probs[0], 0.5 - 0.9 * 0.5 * 0.5, atol=1e-6)


def test_a_break_or_another_size_begins_anew() -> None:
    follower = MaskStream()
    assert (follower.line, follower.to_dict()["flicker_percent"]["before"]) == ("", None)
    for size in ((4, 4), (6, 4)):
        one = answer(np.random.default_rng(0).random(size))
        np.testing.assert_array_equal(follower.steady(one).probs, one.probs)
        follower.reset()
        np.testing.assert_array_equal(follower.steady(one).probs, one.probs)
    assert follower.draw(one, np.zeros((30, 40, 3), np.uint8)).shape == (30, 40, 3)


@pytest.mark.parametrize("smooth", [1.0, -0.1, float("nan")])
def test_shares_that_are_none(smooth: float) -> None:
    assert SEGMENT.follow is not None
    with pytest.raises(UsageError, match="smooth"):
        SEGMENT.follow(smooth)
