"""Photos with boxes, from a recipe to a proven artifact and through every command that docs/detect.md shows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.arguments import Arguments
from pocketvit.cli import main
from pocketvit.commands import COMMANDS
from pocketvit.runtimes.model import load
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.served import Models, Served
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.boxes import overlaps
from pocketvit.spec.recipe import Recipe, load_recipe
from tests import detect_data
from tests.serve.asking import ask, pixels_of
from tests.serve.videos import read_video
from tests.test_docs import code_blocks

VIT = {"embed_dim": 48, "depth": 2, "num_heads": 2, "patch_size": 16}


def recipe(root: Path, **fields: Any) -> Recipe:
    sections: dict[str, Any] = {
        "data": {part: [str(root / "data" / part)] for part in ("train", "val", "test")} | {"layout": "coco"},
        "model": {"name": "vit_micro_patch16_224", "options": VIT},
        "task": {"name": "detect", "head_width": 32},
        "preprocess": {"size": [64, 96], "resize": "stretch"},
        "train": {
            "epochs": 30,
            "batch_size": 8,
            "lr": 5e-3,
            "augment": "flip",
            "precision": "fp32",
            "validate_every": 10,
        },
        "compress": {"steps": ["int8"], "calibration_images": 8, "library_default": False, "min_shrink": 1.1},
        "search": {"runtimes": ["onnxruntime"], "timing_seconds": 0.1, "quiet_seconds": 0, "prefer": "size"},
    }
    return load_recipe(None, {key: {**sections.get(key, {}), **fields.get(key, {})} for key in {*sections, *fields}})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The report of a fit of tiny photos, and the folder in which the commands of the document can be run."""
    root = tmp_path_factory.mktemp("detect")
    for seed, (name, count) in enumerate({"train": 64, "val": 12, "test": 8}.items()):
        detect_data.coco(root / "data" / name, count, seed=1000 * seed)
    photo, rows = detect_data.scene(2000)
    Image.fromarray(np.kron(photo, np.ones((2, 2, 1), np.uint8))).save(root / "photo.png")
    np.save(root / "photo.npy", 2 * np.array(rows))
    return pocketvit.fit(recipe(root), name="boxes", runs=str(root / "runs"), quiet=True), root


@pytest.mark.slow
def test_boxes_go_from_photos_to_a_proven_artifact(fitted: tuple[Any, Path]) -> None:
    report, _ = fitted
    assert (report.metric, report.unit) == ("ap", "%")
    base = next(row for row in report.rows if not row.step)
    assert base.metric > 30
    assert {row.step for row in report.rows} == {"", "int8"}
    manifest = read_artifact(report.artifact).manifest
    assert manifest.verification.passed
    assert [output.name for output in manifest.outputs] == ["heat", "sides"]
    assert manifest.levels[0].labels == ["red", "blue"]
    assert {m.name for m in manifest.metrics if m.split == "test"} == {"ap", "ap50", "ap75"}


@pytest.mark.slow
def test_eval_verify_and_report_read_boxes(fitted: tuple[Any, Path]) -> None:
    report, root = fitted
    chosen, run = next(row for row in report.rows if row.chosen), str(root / "runs" / "boxes")
    scored = pocketvit.eval(run, str(root / "data" / "val"), layout="coco", target=chosen.key)
    assert scored.metrics["ap"] == pytest.approx(chosen.metric)
    assert scored.metrics["ap50"] > scored.metrics["ap"]
    detect_data.yolo(root / "y", 12, seed=1000)
    assert pocketvit.eval(run, str(root / "y"), layout="yolo", target=chosen.key).metrics == pytest.approx(
        scored.metrics
    )
    assert pocketvit.verify(run).passed
    assert "truth" in pocketvit.report(run).path.read_text(encoding="utf-8")
    code = main(["eval", run, str(root / "y"), "--layout", "coco"])
    assert code == 3  # there is no JSON file


@pytest.mark.slow
def test_predict_and_serve_give_the_same_boxes(fitted: tuple[Any, Path]) -> None:
    _, root = fitted
    photo, rows = np.asarray(Image.open(root / "photo.png")), np.load(root / "photo.npy")
    (done,) = pocketvit.predict(
        str(root / "runs" / "boxes"), [str(root / "photo.png")], out=str(root / "out")
    ).predictions
    assert [file.name for file in done.files] == ["photo.boxes.json"]
    saved = json.loads(done.files[0].read_text())
    found = np.array([row["box"] for row in saved["boxes"]]).reshape(-1, 4)
    assert overlaps(found, rows[:, 1:]).max(axis=0).min() > 0.4
    assert done.output is not None
    assert (np.asarray(Image.open(done.output)) != photo).any()
    app = make_app(Models([Served.of(load(str(root / "runs" / "boxes")))]))
    body = (root / "photo.png").read_bytes()
    answer = ask(app, "POST", "/v1/detect?format=json", content=body).json()
    assert answer["boxes"] == done.answer["boxes"]
    values = ask(app, "POST", "/v1/detect?format=values", content=body)
    assert (values.headers["content-type"], values.json()["boxes"]) == ("application/json", saved["boxes"])
    picture = pixels_of(ask(app, "POST", "/v1/detect", content=body).content)
    np.testing.assert_array_equal(picture, np.asarray(Image.open(done.output)))


@pytest.mark.slow
def test_the_commands_of_the_document_do_what_it_says(
    fitted: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, root = fitted
    monkeypatch.chdir(root)
    (root / "recipe.yaml").write_text(json.dumps({"name": "again"}))
    lines = [shlex.split(line)[1:] for line in code_blocks("docs/detect.md")[0][1].splitlines()]
    assert [line[0] for line in lines] == ["doctor", "fit", "verify", "predict", "eval", "stream", "serve"]
    for name, *words in lines:
        assert Arguments(name, COMMANDS[name].resolve(), COMMANDS[name].sections).parse(words)
        if name not in ("fit", "serve"):  # run by the fixture, and below
            assert main([name, *words]) == 0
            assert "Traceback" not in capsys.readouterr().err
    assert json.loads((root / "predictions" / "photo.boxes.json").read_text())["boxes"]
    assert len(read_video(root / "boxes.mp4")[0]) == 12
    for language, code in code_blocks("docs/detect.md"):
        if language == "python":
            exec(compile(code, "docs/detect.md", "exec"), {})
    label, _ = capsys.readouterr().out.split(maxsplit=1)
    assert label in detect_data.NAMES


def test_wrong_boxes_and_options_end_with_their_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = detect_data.yolo(tmp_path / "y", 3)
    settings = ["--task.name", "detect", "--data.train", str(root), "--data.layout", "yolo"]
    stretch = ["--preprocess.resize", "stretch", "--preprocess.size", "64", "96", "--runs", str(tmp_path / "r")]
    (tmp_path / "r.yaml").write_text("name: a\nmodel: {name: vit_micro_patch16_224}\n")
    command = ["train", str(tmp_path / "r.yaml"), *settings]
    assert main([*command, "--runs", str(tmp_path / "r")]) == 2
    assert "detect needs preprocess.resize stretch" in capsys.readouterr().err
    assert main([*command, *stretch, "--task.cell", "5"]) == 2
    assert "task.cell 5 does not go with" in capsys.readouterr().err
    assert main([*command, *stretch, "--train.augment", "randaugment"]) == 2
    capsys.readouterr()
    (root / "labels" / "001.txt").write_text("0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n")
    assert main([*command, *stretch]) == 3
    assert "001.txt, line 2: class 7 is none of the 2" in capsys.readouterr().err
    assert main(["doctor", str(root), "--boxes", "yolo"]) == 3
    assert main(["doctor", str(root), "--boxes", "tolo"]) == 2
    assert "yolo" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
