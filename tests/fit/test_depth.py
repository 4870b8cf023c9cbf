"""Photos with depth maps, from a recipe to a proven artifact and through every command that takes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.cli import main
from pocketvit.errors import NothingFitsError, UsageError
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.images import read_image
from pocketvit.spec.recipe import Recipe, load_recipe
from tests import depth_net


@pytest.fixture(autouse=True)
def _networks(monkeypatch: pytest.MonkeyPatch) -> None:
    depth_net.add(monkeypatch)


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, str]:
    for seed, (name, count) in enumerate({"d": 24, "v": 6, "t": 5}.items()):
        depth_net.folder(tmp_path / name, count, seed=100 * seed)
    return {name: str(tmp_path / name) for name in "dvt"}


def recipe(roots: dict[str, str], **fields: Any) -> Recipe:
    sections: dict[str, Any] = {
        "data": {"train": [roots["d"]], "val": [roots["v"]], "test": [roots["t"]], "layout": "depth"},
        "model": {"name": depth_net.NAME},
        "task": {"name": "depth"},
        "preprocess": {"size": [48, 64], "resize": "stretch"},
        "train": {"epochs": 8, "batch_size": 6, "lr": 0.01, "augment": "crop", "precision": "fp32"},
        "compress": {"steps": ["int8"], "calibration_images": 6, "library_default": False, "min_shrink": 1.1},
        "search": {"runtimes": ["onnxruntime"], "timing_seconds": 0.1, "quiet_seconds": 0},
    }
    return load_recipe(None, {key: {**sections.get(key, {}), **fields.get(key, {})} for key in {*sections, *fields}})


@pytest.mark.slow
def test_depth_goes_from_photos_to_a_proven_artifact_and_through_every_command(
    roots: dict[str, str], tmp_path: Path
) -> None:
    report = pocketvit.fit(recipe(roots), name="a", runs=str(tmp_path), quiet=True)
    assert report.metric == "abs_rel@plain"
    chosen = next(row for row in report.rows if row.chosen)
    assert chosen.metric < 0.2
    artifact = read_artifact(report.artifact)
    assert artifact.manifest.verification.passed
    assert artifact.manifest.outputs[0].name == "depth"
    assert (artifact.path / "golden.npz").stat().st_size < 1_000_000
    assert "estimates the depth" in (artifact.path / "card.md").read_text()
    run = str(tmp_path / "a")
    assert pocketvit.verify(run, data=roots["v"]).passed
    scores = pocketvit.eval(run, roots["v"]).metrics
    assert scores["abs_rel@plain"] == pytest.approx(chosen.metric, abs=1e-6)
    aligned = pocketvit.eval(run, roots["v"], protocol=("scenes7+median", "nyu")).metrics
    assert aligned["delta1@scenes7+median"] > 0.8
    assert "rmse@nyu" in aligned
    assert pocketvit.bench(run, seconds=0.05, memory=False).results
    html = pocketvit.report(run).path.read_text(encoding="utf-8")
    assert "truth (" in html
    assert "abs_rel@plain" in html
    result = pocketvit.load(run)(Path(roots["v"]) / "000.png")
    assert (result.depth.shape, result.depth.dtype, result.metric) == ((48, 64), np.float32, True)


@pytest.fixture
def trained(roots: dict[str, str], tmp_path: Path) -> dict[str, str]:
    pocketvit.train(recipe(roots, train={"epochs": 1}), name="r", runs=str(tmp_path), quiet=True)
    pocketvit.export(str(tmp_path / "r"), str(tmp_path / "a"))
    return roots | {"run": str(tmp_path / "r"), "artifact": str(tmp_path / "a")}


def test_predict_writes_maps_pictures_and_points_and_overwrites_nothing(
    trained: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = Path(trained["v"]) / "000.png", tmp_path / "o"
    arguments = ["predict", trained["artifact"], str(photo), "--out", str(out), "--ply", "--compare", "--json"]
    assert main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)["predictions"]
    assert row["min"] <= row["median"] <= row["max"]
    assert (row["unit"], [Path(file).name for file in row["files"]]) == ("m", ["000.depth.png", "000.ply"])
    stored = np.asarray(Image.open(out / "000.depth.png"))
    assert (stored.dtype, stored.shape) == (np.uint16, (48, 64))
    assert stored.max() / 1000 == pytest.approx(row["max"], abs=1e-3)
    assert read_image(out / "000.png").shape == read_image(photo).shape
    assert (out / "000.compare.png").exists()
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert main([*arguments, "--npy"]) == 0
    names = {file.name for file in out.iterdir()} - {*before}
    assert names == {"000_2.png", "000_2.compare.png", "000_2.depth.npy", "000_2.ply"}
    assert all((out / name).read_bytes() == content for name, content in before.items())
    assert np.load(out / "000_2.depth.npy").dtype == np.float32


def test_wrong_wishes_end_with_2_and_wrong_data_with_3(
    trained: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = ["predict", trained["artifact"], trained["v"], "--out", str(tmp_path / "o")]
    assert main([*predict, "--fov", "50"]) == 2
    assert main([*predict, "--ply", "--fov", "200"]) == 2
    assert main([*predict, "--csv"]) == 2
    assert main(["eval", trained["artifact"], trained["v"], "--protocol", "nyuu"]) == 2
    assert "Did you mean nyu?" in capsys.readouterr().err
    assert main(["eval", trained["artifact"], trained["v"], "--layout", "clean"]) == 2
    assert main(["eval", trained["artifact"], trained["v"], "--depth_unit", "1e-9"]) == 3
    assert "data.depth_unit" in capsys.readouterr().err
    with pytest.raises(UsageError, match="ply does not go with"):
        pocketvit.predict("denoise-color", [str(Path(trained["v"]) / "000.png")], ply=True)


def test_unlabelled_photos_are_learnt_from_a_teacher(trained: dict[str, str], tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(depth_net.scene(500 + i)[0]).save(tmp_path / "photos" / f"{i}.png")
    data = {"train": [str(tmp_path / "photos")], "layout": "clean", "val_layout": "depth", "test": []}
    settings = {"epochs": 3, "teacher": trained["run"], "distill_weight": 1.0}
    report = pocketvit.train(recipe(trained, data=data, train=settings), name="s", runs=str(tmp_path), quiet=True)
    assert 0 < report.info["metrics"]["abs_rel@plain"] < 1
    with pytest.raises(UsageError, match=r"no train\.teacher"):
        pocketvit.train(recipe(trained, data=data), name="u", runs=str(tmp_path), quiet=True)
    assert not (tmp_path / "u").exists()


def test_training_goes_on_from_the_weights_of_a_run(trained: dict[str, str], tmp_path: Path) -> None:
    settings = recipe(trained, model={"weights": trained["run"]}, train={"epochs": 0})
    report = pocketvit.train(settings, name="w", runs=str(tmp_path), quiet=True)
    assert (tmp_path / "w" / "best").is_dir()
    assert report.info["start"] == "weights of r, which had seen 24 images"
    pocketvit.export(str(tmp_path / "w"), str(tmp_path / "b"), size=(24, 32))
    photo = Path(trained["v"]) / "000.png"
    assert pocketvit.load(str(tmp_path / "b"))(photo).depth.shape == (24, 32)


@pytest.mark.parametrize("name", [depth_net.NAME, depth_net.BINS])
def test_relative_depth_and_adaptive_bins_are_exported_and_proven(
    name: str, roots: dict[str, str], tmp_path: Path
) -> None:
    task = {"kind": "relative"} if name == depth_net.NAME else {}
    data = {"protocol": ["plain+least_squares"]}
    settings = recipe(roots, model={"name": name}, task=task, data=data, train={"epochs": 2})
    report = pocketvit.train(settings, name="r", runs=str(tmp_path), quiet=True)
    assert "abs_rel@plain+least_squares" in report.info["metrics"]
    pocketvit.export(str(tmp_path / "r"), str(tmp_path / "a"))
    assert pocketvit.verify(str(tmp_path / "a")).passed
    manifest = read_artifact(str(tmp_path / "a")).manifest
    assert manifest.outputs[0].name == ("inverse_depth" if task else "depth")
    assert manifest.settings == task
    (row,) = pocketvit.predict(str(tmp_path / "a"), [str(Path(roots["v"]) / "001.png")], out=str(tmp_path)).predictions
    assert [file.name for file in row.files] == ["001.depth.npy" if task else "001.depth.png"]
    if task:
        with pytest.raises(UsageError, match="compares metres"):
            pocketvit.eval(str(tmp_path / "a"), roots["v"])


@pytest.mark.slow
def test_a_model_that_is_no_better_than_one_depth_for_all_is_refused(roots: dict[str, str], tmp_path: Path) -> None:
    settings = recipe(roots, task={"max_depth": 80}, train={"epochs": 1, "lr": 1e-9}, compress={"steps": []})
    with pytest.raises(NothingFitsError, match="learned nothing: abs_rel@plain"):
        pocketvit.fit(settings, name="a", runs=str(tmp_path), quiet=True)


def test_slopes_of_sparse_depth_are_refused_before_a_run_begins(tmp_path: Path) -> None:
    for i in range(4):
        photo, depth = depth_net.scene(i)
        Image.fromarray(photo).save(tmp_path / f"{i}.png")
        depth[np.indices(depth.shape).sum(0) % 5 > 0] = 0
        np.save(tmp_path / f"{i}.npy", depth)
    settings = recipe(dict.fromkeys("dvt", str(tmp_path)), task={"gradient_weight": 0.5}, data={"val": [], "test": []})
    with pytest.raises(UsageError, match="needs dense depth"):
        pocketvit.train(settings, name="r", runs=str(tmp_path), quiet=True)
    assert not (tmp_path / "r").exists()
