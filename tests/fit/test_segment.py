"""Photos with masks, from a recipe to a proven artifact and through every command that takes one."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.arguments import Arguments
from pocketvit.cli import main, split_flags
from pocketvit.commands import COMMANDS
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.images import read_image
from pocketvit.spec.recipe import Recipe, load_recipe
from tests import segment_net
from tests.serve.asking import app_of, ask


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    top = tmp_path_factory.mktemp("segment")
    for seed, (name, count) in enumerate({"d": 24, "v": 6, "t": 5}.items()):
        segment_net.folder(top / name, count, seed=100 * seed)
    return {name: str(top / name) for name in "dvt"} | {"top": str(top)}


def recipe(roots: dict[str, str], **fields: Any) -> Recipe:
    sections: dict[str, Any] = {
        "data": {"train": [roots["d"]], "val": [roots["v"]], "test": [roots["t"]], "layout": "masks"},
        "model": {"name": segment_net.NAME},
        "task": {"name": "segment", "stride": 3, "class_weights": "balanced", "dice_weight": 0.3},
        "preprocess": {"size": [48, 64], "resize": "stretch"},
        "train": {
            "epochs": 10,
            "batch_size": 6,
            "lr": 0.02,
            "augment": "crop",
            "precision": "fp32",
            "validate_every": 5,
        },
        "compress": {"steps": ["int8"], "calibration_images": 6, "library_default": False, "min_shrink": 1.1},
        "search": {"runtimes": ["onnxruntime"], "timing_seconds": 0.1, "quiet_seconds": 0},
    }
    return load_recipe(None, {key: {**sections.get(key, {}), **fields.get(key, {})} for key in {*sections, *fields}})


@pytest.fixture(scope="module")
def run(roots: dict[str, str]) -> Iterator[str]:
    """The run folder of a fit."""
    with pytest.MonkeyPatch.context() as patch:
        segment_net.add(patch)
        pocketvit.fit(recipe(roots), name="a", runs=roots["top"], quiet=True)
        yield str(Path(roots["top"]) / "a")


@pytest.mark.slow
def test_fit_hands_over_masks_that_were_learnt_and_proven(run: str, roots: dict[str, str]) -> None:
    artifact = read_artifact(run)
    manifest = artifact.manifest
    assert manifest.verification.passed
    assert (manifest.main_metric, manifest.levels[0].labels) == ("miou", list(segment_net.LABELS))
    assert [(x.name, x.shape) for x in manifest.outputs] == [("probs", [1, 3, 16, 22])]
    assert manifest.settings == {"stride": 3, "class_weights": "balanced", "dice_weight": 0.3}
    scores = {
        row.name: row.value for row in manifest.metrics if row.split == "test" and row.variant == manifest.default
    }
    assert set(scores) == {"miou", "pixel_accuracy", *(f"{label}.iou" for label in segment_net.LABELS)}
    assert scores["miou"] > 75
    assert (artifact.path / "golden.npz").stat().st_size < 500_000
    card = (artifact.path / "card.md").read_text()
    assert "gives each pixel of a photograph a class" in card
    assert pocketvit.verify(run, data=roots["v"]).passed
    again = pocketvit.eval(run, roots["t"]).metrics
    assert again["miou"] == pytest.approx(scores["miou"], abs=1e-6)
    html = pocketvit.report(run).path.read_text(encoding="utf-8")
    assert "miou" in html
    result = pocketvit.load(run)(Path(roots["v"]) / "images" / "000.png")
    truth = segment_net.scene(100)[1]
    found = result.resized(*truth.shape)
    assert (found == truth)[truth != 255].mean() > 0.8


@pytest.mark.slow
def test_predict_writes_masks_and_pictures(run: str, roots: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    photo, out = Path(roots["v"]) / "images" / "000.png", tmp_path / "o"
    assert main(["predict", run, str(photo), "--out", str(out), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["predictions"]
    assert sum(each["share"] for each in row["classes"]) == pytest.approx(1)
    assert [Path(file).name for file in row["files"]] == ["000.classes.png"]
    stored = np.asarray(Image.open(out / "000.classes.png"))
    assert (stored.dtype, stored.shape) == (np.uint8, segment_net.SIZE)
    assert stored.max() < len(segment_net.LABELS)
    assert read_image(out / "000.png").shape == read_image(photo).shape
    assert main(["predict", run, str(photo), "--out", str(out), "--ply"]) == 2
    assert main(["predict", run, str(photo), "--out", str(out), "--csv"]) == 2


@pytest.mark.slow
def test_wrong_masks_end_with_3(run: str, roots: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    root = segment_net.folder(tmp_path / "w", 2)
    Image.fromarray(np.full(segment_net.SIZE, 9, np.uint8)).save(root / "masks" / "001.png")
    assert main(["eval", run, str(root)]) == 3
    assert "masks/001.png: holds class 9" in capsys.readouterr().err
    (root / "classes.txt").write_text("x\ny\n")
    assert main(["eval", run, str(root)]) == 3
    assert "names the class 'x'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stream_of_masks_is_drawn(run: str, roots: dict[str, str], tmp_path: Path) -> None:
    report = pocketvit.stream(run, source=f"{roots['v']}/images", output=str(tmp_path / "o.mp4"))
    document = report.to_dict()
    assert (document["frames_in"], document["frames_out"]) == (6, 6)
    assert document["flicker_percent"]["pairs"] == 5
    assert " % of the pixels change their class" in str(report.render())
    assert "Depth" not in str(report.render())
    assert (tmp_path / "o.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_a_server_answers_with_classes_pictures_and_indices(run: str, roots: dict[str, str]) -> None:
    photo, app = (Path(roots["v"]) / "images" / "000.png").read_bytes(), app_of(pocketvit.load(run))
    document = ask(app, "POST", "/v1/segment?format=json", content=photo).json()
    assert document["task"] == "segment"
    assert {each["label"] for each in document["classes"]} <= set(segment_net.LABELS)
    picture = ask(app, "POST", "/v1/segment", content=photo)
    assert Image.open(io.BytesIO(picture.content)).mode == "RGB"
    values = ask(app, "POST", "/v1/segment?format=values", content=photo)
    stored = np.asarray(Image.open(io.BytesIO(values.content)))
    np.testing.assert_array_equal(stored, pocketvit.load(run)(roots["v"] + "/images/000.png").resized(*stored.shape))


@pytest.mark.slow
def test_every_format_holds_the_network(run: str, tmp_path: Path) -> None:
    pocketvit.export(run, str(tmp_path / "a"), formats=("onnx", "openvino", "torchscript"))
    manifest = read_artifact(str(tmp_path / "a")).manifest
    assert {variant.runtime for variant in manifest.variants} == {"onnxruntime", "openvino", "torchscript"}
    assert pocketvit.verify(str(tmp_path / "a"), trust=True, negative_controls=False).passed


DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "segment.md").read_text(encoding="utf-8")
COMMAND_LINES = re.findall(r"^(pocketvit .+?)$", DOCUMENT, re.MULTILINE)


@pytest.mark.slow
def test_the_commands_of_the_document_work(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that train or serve are parsed; the artifact of the tests stands for what they would have made."""
    for seed, part in enumerate(("train", "val")):
        segment_net.folder(tmp_path / "shapes" / part, 4, seed=40 * seed)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shapes").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    done = []
    for line in COMMAND_LINES:
        _, words = split_flags(shlex.split(line)[1:])
        command = COMMANDS[words[0]]
        assert Arguments(words[0], command.resolve(), command.sections).parse(words[1:])
        if words[0] not in ("fit", "serve"):
            assert main(shlex.split(line)[1:]) == 0, line
            done.append(words[0])
    assert done == ["doctor", "init", "eval", "predict", "stream"]
    assert load_recipe(tmp_path / "segment.yaml").task.name == "segment"
