"""The app's preprocessing, tiles, answers and golden limits against Python's, value for value, in Node.js."""

from __future__ import annotations

import base64
import itertools
import json
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvit.runtimes.whole import tile_for
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.depth_stream import DepthStream
from pocketvit.spec.golden import read_golden
from pocketvit.spec.hierarchy import LevelSpec, decide, leaf_paths
from pocketvit.spec.manifest import Manifest, Memory
from pocketvit.spec.parity import parity_violations, tolerances
from pocketvit.spec.preprocess import Preprocess, prepare, resize
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.depth import Depth
from pocketvit.spec.tasks.detect import DETECT, Detections, stacked
from pocketvit.spec.tasks.segment import Segmentation
from pocketvit.spec.tasks.strength import adjusted
from pocketvit.spec.tiles import run_tiled
from tests.tiny import LEVELS, make_tiny_artifact, photo
from tests.web.browser import ROOT, UNITS, need
from tests.web.segment_artifact import make_segment_artifact

Case = dict[str, Any]


class Asked:
    """Cases with what Python says of each; all are run by one process."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.cases: list[Case] = []
        self.expected: list[Any] = []

    def add(self, kind: str, expected: Any, image: np.ndarray | None = None, **rest: Any) -> None:
        if image is not None:
            rest["image"] = self.keep(image)
        self.cases.append({"kind": kind, **rest})
        self.expected.append(expected)

    def keep(self, array: np.ndarray) -> str:
        name = f"a{len(self.arrays)}"
        self.arrays[name] = np.ascontiguousarray(array)
        return name

    def run(self, folder: Path) -> list[Any]:
        np.savez_compressed(folder / "cases.npz", **self.arrays)  # type: ignore[arg-type]
        (folder / "cases.json").write_text(json.dumps(self.cases))
        command = ["node", str(Path(__file__).with_name("units.mjs")), str(UNITS), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "answers.json").read_text())


def pixels(answer: dict[str, Any]) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(answer["data"]), np.uint8)
    return data.reshape(answer["height"], answer["width"], 3)


@pytest.fixture(autouse=True, scope="module")
def units() -> None:
    need(("web/build/units.mjs", UNITS.is_file()), ("node", shutil.which("node") is not None))


def test_every_task_has_its_rows(tmp_path: Path) -> None:
    asked = Asked()
    asked.add("tasks", None)
    (rows,) = asked.run(tmp_path)
    assert rows["figures"] == sorted(TASKS)
    assert rows["answers"] == sorted(name for name, task in TASKS.items() if task.geometry != "pixels")


def test_pixels_are_pythons(tmp_path: Path) -> None:
    asked, rng = Asked(), np.random.default_rng(0)
    photos = [photo(61, 83), photo(240, 320, seed=2), rng.integers(0, 256, (97, 40, 3)).astype(np.uint8), photo(9, 7)]
    for image, filter_, kind in itertools.product(
        photos, ("nearest", "bilinear", "bicubic", "lanczos"), ("crop", "stretch")
    ):
        spec = Preprocess(size=(48, 64), resize=kind, interpolation=filter_)
        asked.add("prepare", prepare(image, spec), image, spec=spec.to_dict())
    long = rng.integers(0, 256, (3, 900, 3)).astype(np.uint8)
    spec = Preprocess(size=(32, 32))
    asked.add("prepare", prepare(long, spec), long, spec=spec.to_dict())
    for height, width in rng.integers(20, 110, (60, 2)).tolist():  # smaller and larger in all ways
        wanted = resize(photos[0], (height, width), "bicubic")
        asked.add("resize", wanted, photos[0], height=height, width=width, interpolation="bicubic")
    box = (10.3, 4.2, 71.9, 55.5)
    wanted = resize(photos[0], (30, 40), "bicubic", box)
    asked.add("resize", wanted, photos[0], height=30, width=40, interpolation="bicubic", box=box)
    for strength in (0.0, 0.3, 1.0, 1.7, 2.0):
        wanted = adjusted(photos[0], lambda x: np.trunc(x * 0.7).astype(np.uint8), strength)
        asked.add("strength", wanted, photos[0], strength=strength)
    for wanted, answer in zip(asked.expected, asked.run(tmp_path), strict=True):
        np.testing.assert_array_equal(pixels(answer), wanted)


def test_tiles_are_pythons(tmp_path: Path) -> None:
    asked = Asked()

    def halved(tile: np.ndarray) -> np.ndarray:
        places = np.arange(tile.size).reshape(tile.shape) % 7
        return (tile / np.float32(2) + places / np.float32(4)).astype(np.float32)

    for shape, size, overlap in [((70, 90), (32, 48), 8), ((20, 25), (32, 48), 8), ((32, 131), (32, 32), 16)]:
        image = photo(*shape, seed=3)
        asked.add("tiled", run_tiled(halved, image, size, overlap), image, size=size, overlap=overlap)
    spec = Preprocess(size=(64, 64), resize="tile", overlap=16, multiple=8)
    memory = Memory(fixed_mb=1.0, bytes_per_pixel=200.0)
    variant = {"memory": memory.model_dump()}
    for shape, limit in itertools.product([(240, 320), (3000, 4000), (600, 20)], [400.0, 30.0, 2.0]):
        rest = {"height": shape[0], "width": shape[1], "spec": spec.to_dict(), "variant": variant, "limit": limit}
        wanted = tile_for(shape, spec, memory, limit)
        asked.add("tile", None if wanted is None else list(wanted), **rest)
    answers = asked.run(tmp_path)
    for wanted, answer in zip(asked.expected, answers, strict=True):
        if isinstance(wanted, np.ndarray):
            np.testing.assert_array_equal(pixels(answer), wanted)
        else:
            assert answer == wanted


def test_answers_are_pythons(tmp_path: Path) -> None:
    asked, rng = Asked(), np.random.default_rng(1)
    levels = [level.model_dump() for level in LEVELS]
    for _ in range(20):
        scores = [rng.dirichlet(np.ones(len(level.labels))).astype(np.float32) for level in LEVELS]
        wanted = decide([score[None] for score in scores], leaf_paths(LEVELS))[0].tolist()
        asked.add("decide", wanted, levels=levels, scores=[score.tolist() for score in scores])
    maps = [rng.uniform(0.5, 4, (24, 32)).astype(np.float32) * scale for scale in (1, 1.3, 0.8)]
    maps[1][0, 0] = 0
    for metric in (True, False):
        follower, pictures = DepthStream(0.0), []
        for one in maps:
            pictures.append(follower.draw(Depth(one, metric), np.zeros((24, 32, 3), np.uint8)))
        asked.add("depth", pictures, maps=[asked.keep(one) for one in maps], metric=metric)
    for wanted, answer in zip(asked.expected, asked.run(tmp_path), strict=True):
        if isinstance(wanted[0], np.ndarray):
            for one, picture in zip(answer, wanted, strict=True):
                np.testing.assert_allclose(pixels(one).astype(int), picture, atol=1)
        else:
            assert answer == wanted


def test_masks_are_pythons(tmp_path: Path) -> None:
    asked, rng = Asked(), np.random.default_rng(4)
    for count, size, shape in [(3, (24, 32), (61, 83)), (20, (15, 20), (700, 90)), (2, (30, 40), (30, 40))]:
        raw = np.kron(rng.normal(0, 2, (count, size[0] // 3, size[1] // 4 + 1)), np.ones((1, 3, 4)))[:, :, : size[1]]
        probs = (np.exp(raw) / np.exp(raw).sum(axis=0)).astype(np.float32)
        wanted = Segmentation(probs, tuple(f"c{k}" for k in range(count)))
        image = photo(*shape, seed=count)
        asked.add("masks", (wanted.tinted(image), wanted.ranked()), image, probs=asked.keep(probs))
    for (picture, ranked), answer in zip(asked.expected, asked.run(tmp_path), strict=True):
        np.testing.assert_array_equal(pixels(answer), picture)
        assert {each["label"]: each["share"] for each in answer["parts"]} == pytest.approx(dict(ranked))
        assert [each["share"] for each in answer["parts"]] == sorted(dict(ranked).values(), reverse=True)


def test_boxes_and_their_precision_are_pythons(tmp_path: Path) -> None:
    asked, rng = Asked(), np.random.default_rng(3)
    levels = [LevelSpec(name="label", labels=["a", "b"])]
    answers, truths = [], []
    for _ in range(8):
        heat = rng.uniform(0, 0.3, (2, 9, 12)).astype(np.float32) ** 2
        heat[0, 2, 2:4] = 0.5  # equal neighbours
        sides = rng.uniform(0.02, 0.4, (4, 9, 12)).astype(np.float32)
        found = DETECT.finish({"heat": heat[None], "sides": sides[None]}, levels)
        assert isinstance(found, Detections)
        rows = zip(found.classes.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
        answers.append([{"index": k, "score": score, "box": box} for k, score, box in rows])
        asked.add("boxes", answers[-1], heat=asked.keep(heat), sides=asked.keep(sides))
        near = found.boxes[:6] + rng.normal(0, 0.01, (len(found.boxes[:6]), 4))
        truths.append(np.concatenate([found.classes[:6, None], near], axis=1))
    evaluator = DETECT.evaluator(levels, "")
    for one, truth in zip(answers, truths, strict=True):
        columns = (np.array([row[key] for row in one]) for key in ("box", "index", "score"))
        evaluator.update(Detections(("a", "b"), *columns), truth)
    precision = next(evaluator.metrics()).value
    assert 20 < precision < 95
    asked.add("precision", precision, answers=answers, truth=asked.keep(stacked(truths)), classes=2)
    *boxes, value = asked.run(tmp_path)
    assert boxes == asked.expected[:-1]
    assert value == pytest.approx(precision, abs=0.01)  # truths are float32 there


def test_the_golden_check_finds_what_python_finds(tmp_path: Path) -> None:
    asked, rng = Asked(), np.random.default_rng(2)
    artifacts = [read_artifact("denoise-photo"), make_tiny_artifact(tmp_path / "c", "classify")]
    artifacts.append(make_segment_artifact(tmp_path / "s"))
    for artifact, size in itertools.product(artifacts, (0.0, 1e-4, 0.05, 30.0)):
        golden, noise = read_golden(artifact), rng.normal(0, size, 997).astype(np.float32)
        outputs = {name: value + tiled(noise, value) for name, value in golden.outputs.items()}
        for precision in ("fp32", "int8"):
            limits = tolerances(artifact.manifest, precision)
            wanted = parity_violations(artifact.manifest, outputs, golden, limits)
            where = {"artifact": str(artifact.path), "precision": precision, "noise": asked.keep(noise)}
            asked.add("faults", {kind_of(each) for each in wanted}, **where)
    found = asked.run(tmp_path)
    assert [{kind_of(each) for each in one} for one in found] == asked.expected
    assert len({frozenset(one) for one in asked.expected}) > 3


def tiled(noise: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The noise repeated over each sample from its beginning, as the script adds it."""
    sample = int(np.prod(value.shape[1:]))
    return np.broadcast_to(np.resize(noise, sample).reshape(value.shape[1:]), value.shape)


def kind_of(fault: str) -> str:
    """``restored: max_abs`` of ``restored: max_abs 30.1, allowed at most 0.25``."""
    return fault.partition(", allowed")[0].rpartition(" ")[0]


def test_the_chosen_file_is_tried_first_and_then_float32(tmp_path: Path) -> None:
    asked = Asked()
    asked.add("variants", ["fp32", "int8"], artifact=str(read_artifact("denoise-photo").path))
    chosen = read_artifact("denoise-photo").manifest.model_copy(update={"default": "onnxruntime:int8"})
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", chosen)
    asked.add("variants", ["int8", "fp32"], artifact=str(tmp_path / "other"))
    assert asked.run(tmp_path) == asked.expected


def write(folder: Path, manifest: Manifest) -> None:
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def test_the_limits_of_the_app_are_those_of_the_tasks() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "web_limits.py"))
    assert script["FILE"].read_text(encoding="utf-8") == script["limits"]()
