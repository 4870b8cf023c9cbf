from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pocketvit.commands import COMMANDS
from pocketvit.errors import DataError, UsageError
from pocketvit.runtimes.model import load
from pocketvit.serve import predict as module
from pocketvit.serve.predict import PredictReport, expand, plan_outputs, predict
from pocketvit.spec.artifact import Artifact, sha256
from pocketvit.spec.images import read_image, write_image
from tests.bad_images import READABLE, UNREADABLE, write_bad_images
from tests.tiny import coloured, make_tiny_artifact, noisy, photo


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("predict") / "restore", openvino=True).path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    artifact: Artifact = make_tiny_artifact(tmp_path_factory.mktemp("predict") / "classify", "classify")
    return str(artifact.path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with in/a.png, in/b.jpg and in/deep/c.png."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.jpg", "deep/c.png")):
        write_image(tmp_path / "in" / name, noisy(photo(50 + seed, 70, seed)))
    return tmp_path


def rendered(report: PredictReport) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(report.render())
    return text.getvalue()


def test_restores_a_folder_into_predictions(restorer: str, folder: Path) -> None:
    report = COMMANDS["predict"].resolve()(restorer, ["in"])
    assert [p.output for p in report.predictions] == [
        Path("predictions") / name for name in ("a.png", "b.png", "c.png")
    ]
    assert report.exit_code == 0
    model = load(restorer)
    for row in report.predictions:
        np.testing.assert_array_equal(read_image(row.output), model(row.image).image)
        assert row.ms > 0
    assert sorted(p.name for p in (folder / "predictions").iterdir()) == ["a.png", "b.png", "c.png"]
    assert "3 images in" in rendered(report)


def test_globs_files_and_repeats(restorer: str, folder: Path) -> None:
    report = predict(restorer, ["in/*.png", "in/a.png", "in/**/*.png"], out="out", target="openvino:fp32:1")
    assert [str(p.image) for p in report.predictions] == ["in/a.png", "in/deep/c.png"]
    assert report.variant == "openvino:fp32"
    (folder / "in" / "odd[1].png").write_bytes((folder / "in" / "a.png").read_bytes())
    assert [str(p) for p in expand(["in/odd[1].png"])[0]] == [
        "in/odd[1].png"
    ]  # a real file, although it looks like a glob


def test_one_image_into_a_named_file(restorer: str, folder: Path) -> None:
    report = predict(restorer, ["in/a.png"], out="deep/new/x.jpg")
    assert report.predictions[0].output == Path("deep/new/x.jpg")
    assert read_image(folder / "deep" / "new" / "x.jpg").shape == (50, 70, 3)
    with pytest.raises(UsageError, match="is one file, but there are 3 images"):
        predict(restorer, ["in"], out="x.png")


def test_inputs_are_never_overwritten(restorer: str, folder: Path) -> None:
    before = {path: sha256(path) for path in (folder / "in").rglob("*.*")}
    report = predict(restorer, ["in"], out="in")
    assert [str(p.output) for p in report.predictions] == ["in/a_2.png", "in/b.png", "in/c.png"]
    assert {path: sha256(path) for path in before} == before
    with pytest.raises(UsageError, match="is the input itself"):
        predict(restorer, ["in/a.png"], out="in/../in/a.png")
    (folder / "link.png").symlink_to(folder / "in" / "a.png")
    with pytest.raises(UsageError, match="is the input itself"):
        predict(restorer, ["in/a.png"], out="link.png")


def test_equal_stems_are_numbered(folder: Path) -> None:
    plan = plan_outputs([Path("x/a.png"), Path("y/a.jpg"), Path("z/a.png"), Path("a_2.png")], "out")
    assert [str(p) for p in plan.values()] == ["out/a.png", "out/a_2.png", "out/a_3.png", "out/a_2_2.png"]


def test_bad_images_among_good_ones_are_reported_and_skipped(
    restorer: str, classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = write_bad_images(tmp_path / "bad", huge=False)
    for artifact in (restorer, classifier):
        report = predict(artifact, ["bad"])
        assert report.exit_code == 3
        assert {Path(f.image).name for f in report.failures} == {files[name].name for name in UNREADABLE}
        assert len(report.predictions) == len(READABLE) - 1
        assert "3 images were skipped:" in rendered(report)
        assert all(f.reason in rendered(report) for f in report.failures)
    outputs = {p.name for p in (tmp_path / "predictions").iterdir()}
    assert len(outputs) == len(READABLE) - 1
    assert not any("partial" in name for name in outputs)


@pytest.mark.parametrize("name", [*UNREADABLE, "empty_folder"])
def test_a_bad_image_alone_is_an_error(
    restorer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = write_bad_images(tmp_path / "bad", huge=False)
    with pytest.raises(DataError) as caught:
        predict(restorer, [str(files[name])])
    assert str(files[name]) in caught.value.what


def test_nothing_there(restorer: str, folder: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        predict(restorer, ["none.png"])
    with pytest.raises(DataError, match="matches no image files"):
        predict(restorer, ["in/*.bmp"])
    with pytest.raises(UsageError, match="no images are named"):
        predict(restorer, [])
    report = predict(restorer, ["in/*.bmp", "none.png", "in/a.png"])
    assert [f.image for f in report.failures] == ["in/*.bmp", "none.png"]
    assert len(report.predictions) == 1
    assert predict(restorer, ["none.png", "in/*.bmp"]).exit_code == 3


def test_classifies_and_prints(classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for label, name in enumerate(("red", "yellow", "green", "blue")):
        write_image(tmp_path / f"{name}.png", coloured(label))
    report = predict(classifier, ["."], top=2)
    assert [p.answer["path"][-1] for p in report.predictions] == ["blue", "green", "red", "yellow"]
    assert [len(p.answer["levels"][1]["top"]) for p in report.predictions] == [2] * 4
    assert report.table is None
    assert not (tmp_path / "predictions").exists()
    assert "cold" in rendered(report)
    assert "> blue" in rendered(report)
    assert json.loads(json.dumps(report.to_dict()))["predictions"][0]["levels"][1]["label"] == "blue"


def test_answers_as_csv_and_json(classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "red, dark.png", coloured(0))
    report = predict(classifier, ["red, dark.png"], csv=True, top=3)
    assert report.table == Path("predictions/predictions.csv")
    (row,) = csv.DictReader(report.table.open())
    assert (row["image"], row["coarse"], row["fine"], row["top1"]) == ("red, dark.png", "warm", "red", "red")
    assert float(row["fine_score"]) == pytest.approx(report.predictions[0].answer["levels"][1]["score"], abs=1e-6)
    assert "top3_score" in row
    assert "top4" not in row
    assert json.loads(predict(classifier, ["red, dark.png"], out="x/answers.json").table.read_text())[0]["path"] == [
        "warm",
        "red",
    ]
    assert predict(classifier, ["red, dark.png"], out="x/answers.csv").table.read_text().startswith("image,coarse,")
    assert predict(classifier, ["red, dark.png"], out="y").table == Path("y/predictions.json")
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["answers.csv", "answers.json"]


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("restore", {"csv": True}, "csv goes with answers in a table"),
        ("classify", {"out": "a.png"}, "is a picture"),
        ("classify", {"out": "a.json", "csv": True}, "csv is on"),
        ("classify", {"top": 0}, "top must be"),
        ("restore", {"target": "tpu"}, "unknown runtime"),
        ("restore", {"out": "file"}, "without an image suffix"),
    ],
)
def test_options_that_do_not_go_together(
    restorer: str, classifier: str, folder: Path, task: str, options: dict, says: str
) -> None:
    (folder / "file").write_text("x")
    with pytest.raises(UsageError, match=says):
        predict({"restore": restorer, "classify": classifier}[task], ["in/a.png"], **options)


def test_output_that_cannot_be_written(
    restorer: str, classifier: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_text("x")
    for artifact in (restorer, classifier):
        with pytest.raises(DataError, match="cannot be created"):
            predict(artifact, ["in/a.png"], out="file/sub")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(DataError, match="No space left on device"):
        predict(classifier, ["in/a.png"], out="new.csv")
    assert not (folder / "new.csv").exists()
    assert not [p for p in folder.iterdir() if "partial" in p.name]


def test_long_tables_are_cut_when_printed(classifier: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TABLE_ROWS", 2)
    assert "... and 1 more" in rendered(predict(classifier, ["in"]))


def test_too_little_memory_is_about_one_image(restorer: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketvit.runtimes import model as models

    tiled = models.run_tiled

    def fail(run: object, image: np.ndarray, *args: object) -> np.ndarray:
        if image.shape[0] == 50:  # a.png
            raise MemoryError
        return tiled(run, image, *args)

    monkeypatch.setattr(models, "run_tiled", fail)
    report = predict(restorer, ["in"])
    assert [str(row.image) for row in report.predictions] == ["in/b.jpg", "in/deep/c.png"]
    assert len(report.failures) == 1
    assert report.failures[0].reason.startswith("in/a.png: ")
    assert "memory" in report.failures[0].reason
    assert report.exit_code == 3


def test_files_that_were_not_looked_at_are_counted(restorer: str, folder: Path) -> None:
    for name in ("a.heic", "b.heic", "c.mov"):
        (folder / "in" / name).write_bytes(b"x")
    assert "3 files were not looked at: 2 .heic, 1 .mov" in rendered(predict(restorer, ["in"]))


_PEAK = """
import resource, sys
from pocketvit.serve.predict import predict
artifact, small, large, out = sys.argv[1:]
predict(artifact, [small], out=out + "/small_out.png")  # libraries and the session's buffers are there
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
predict(artifact, [large], out=out + "/large_out.png")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_a_large_photo_costs_at_most_three_times_its_bytes(restorer: str, tmp_path: Path) -> None:
    side = 4000
    for name, size in (("small", 200), ("large", side)):
        Image.fromarray(np.tile(photo(200, 200), (size // 200, size // 200, 1))).save(
            tmp_path / f"{name}.png", compress_level=1
        )
    command = [sys.executable, "-c", _PEAK, restorer, *(str(tmp_path / f"{n}.png") for n in ("small", "large"))]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * 3 * side * side
