from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvit.errors import UsageError
from pocketvit.runtimes.model import load
from pocketvit.runtimes.parts import Joined, answer, encoded, features_of, split_of
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.golden import read_golden
from tests.tiny import photo


def scores(result: object) -> np.ndarray:
    return np.concatenate([level.scores for level in result.levels])  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", ["cut1", "cut2"])
def test_head_and_tail_answer_as_the_uncut_model(halves: Path, cut: str) -> None:
    whole, head, tail = (load(halves / name) for name in ("whole", f"{cut}/head", f"{cut}/tail"))
    joined = Joined(head, tail)
    for seed in range(6):
        image = photo(60, 70, seed)
        straight = answer(tail, features_of(head, image))
        np.testing.assert_allclose(scores(straight), scores(whole(image)), atol=2e-5)
        np.testing.assert_allclose(scores(joined(image)), scores(whole(image)), atol=0.05)
        assert np.abs(scores(joined(image)) - scores(whole(image))).max() > 0  # it came over the wire


def test_goldens_of_both_halves_are_of_one_network(halves: Path) -> None:
    whole, head, tail = (read_golden(read_artifact(halves / name)) for name in ("whole", "cut1/head", "cut1/tail"))
    np.testing.assert_array_equal(head.inputs, whole.inputs)
    np.testing.assert_array_equal(head.outputs["features"], tail.inputs)
    np.testing.assert_array_equal(tail.outputs["probs_fine"], whole.outputs["probs_fine"])
    np.testing.assert_array_equal(tail.truth, whole.truth)


def test_a_head_is_not_joined_with_another_tail(halves: Path) -> None:
    first, second = load(halves / "cut1" / "head"), load(halves / "cut2" / "tail")
    with pytest.raises(UsageError, match="not of one network and cut"):
        Joined(first, second)
    with pytest.raises(UsageError, match="are no head and tail"):
        Joined(first, load(halves / "whole"))
    with pytest.raises(UsageError, match="not the head of a split model but the tail of one"):
        encoded(second, photo(60, 70))
    with pytest.raises(UsageError, match="but a whole model"):
        split_of(load(halves / "whole"), "tail")


def test_half_a_model_does_not_pass_for_a_whole_one(halves: Path) -> None:
    head, tail = load(halves / "cut1" / "head"), load(halves / "cut1" / "tail")
    for call, says in (
        (lambda: head(photo(60, 70)), "is the head of a split model"),
        (lambda: head.finish(head.infer(head.prepare(photo(60, 70)))), "is the head of a split model"),
        (lambda: tail(photo(60, 70)), "is the tail of a split model"),
        (lambda: tail.prepare(photo(60, 70)), "is the tail of a split model"),
        (lambda: load(halves / "cut1"), "holds the two halves of a split model"),
    ):
        with pytest.raises(UsageError, match=says):
            call()
