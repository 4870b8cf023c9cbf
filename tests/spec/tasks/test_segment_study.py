"""What an evaluation of masks shows beside its figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.tasks.segment import SEGMENT, Segmentation

LABELS = ("road", "sky", "tree")
LEVELS = (LevelSpec(name="label", labels=list(LABELS)),)


@dataclass
class Case:
    truth: np.ndarray
    path: Path
    image: np.ndarray
    condition: str = ""


def case(number: int, wrong: int) -> tuple[Case, Segmentation]:
    """A photo of 10 columns of sky, of which the first ``wrong`` were taken for road; the last is ignored."""
    truth = np.ones((10, 10), np.uint8)
    truth[:, -1] = 255
    probs = np.zeros((3, 10, 10), np.float32)
    probs[1], probs[0, :, :wrong] = 0.6, 0.9
    return Case(truth, Path(f"{number}.png"), np.zeros((700, 700, 3), np.uint8)), Segmentation(probs, LABELS)


def test_the_study_tells_what_is_confused_and_shows_the_worst_photos() -> None:
    assert SEGMENT.study is not None
    study = SEGMENT.study(LEVELS)
    assert (study.lines(), study.pictures()) == ([], [])
    for number, wrong in enumerate((0, 3, 9, 1, 2, 4, 5, 3)):
        study.add(*case(number, wrong))
    blank, answer = case(9, 9)
    blank.truth[:] = 255
    study.add(blank, answer)
    known, lost = 8 * 90, 10 * 27
    absent, least, mistakes = study.lines()
    assert absent == "Warning: no mask has a pixel of road, tree: the figures say nothing of that."
    assert least == f"Least overlap: road 0.0 %, sky {100 * (known - lost) / known:.1f} %."
    assert mistakes == f"Most frequent mistakes, of all pixels: sky as road ({100 * lost / known:.1f} %)."
    captions = [caption for caption, _ in study.pictures()]
    assert [caption.split(".")[0] for caption in captions] == ["2", "6", "5", "1", "7", "4"]
    assert captions[0] == "2.png: 0 % of the pixels right"
    panels = study.pictures()[0][1]
    assert [name for name, _ in panels] == ["photo", "classes", "truth"]
    assert {picture.shape for _, picture in panels} == {(320, 320, 3)}
    document = json.loads(json.dumps(study.to_dict()))
    assert document["confused"] == [{"truth": "sky", "answer": "road", "pixels": lost}]
    assert document["per_class"][2] == {"label": "tree", "pixels": 0, "iou": None}
    assert document["confusion"]["pixels"][1] == [lost, known - lost, 0]
