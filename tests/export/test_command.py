from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.export import command
from pocketvit.export.command import export, recipe_of
from pocketvit.models.trained import save_checkpoint
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.golden import read_golden
from pocketvit.tasks.load import at_size
from tests.export.nets import classifier, restorer
from tests.tiny import photo


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, label in enumerate("xxyz"):
        (folder / "classes" / label).mkdir(parents=True, exist_ok=True)
        (folder / "clean").mkdir(exist_ok=True)
        for place in ("clean", f"classes/{label}"):
            Image.fromarray(photo(64, 72, seed=i)).save(folder / place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(folder / "restore", restorer())
    flat = classifier()
    save_checkpoint(folder / "run" / "best", flat)
    return folder


@pytest.mark.slow
def test_restorer_with_all_formats_another_size_and_name(checkpoints: Path, photos: Path, tmp_path: Path) -> None:
    given = {"name": "den", "version": "0.3.0", "licence_data": "CC0", "size": (41, 50), "goldens": 2}
    report = export(
        str(checkpoints / "restore"),
        str(tmp_path / "a"),
        formats=("openvino", "onnx", "torchscript"),
        data=str(photos / "clean"),
        **given,
    )
    artifact = read_artifact(tmp_path / "a")
    assert (artifact.manifest.name, artifact.manifest.version, artifact.manifest.licence.data) == (
        "den",
        "0.3.0",
        "CC0",
    )
    assert artifact.manifest.default == "openvino:fp32"
    assert artifact.manifest.preprocess.size == (41, 50)
    assert artifact.manifest.main_metric == "psnr@sigma25"
    golden = read_golden(artifact)
    assert golden.inputs.shape == (2, 36, 39, 3)  # a file of any size is proven at one that is padded
    assert 15 < np.std(golden.inputs.astype(float) - golden.truth) < 26  # noise of sigma 25, clipped
    assert set(report.variants) == {"openvino:fp32", "onnxruntime:fp32", "torchscript:fp32"}
    assert all(row["max_abs"] < 0.1 for row in report.variants.values())
    assert report.exit_code == 0
    assert json.loads(json.dumps(report.to_dict()))["goldens"] == 2
    assert "41x50" in report.render()
    assert "openvino:fp32" in report.render()


def test_classifier_of_a_run_matches_classes_by_name(
    checkpoints: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tmp_path / "list.txt"
    rows = [(f"{photos}/classes/{'xxyz'[i]}/{i}.png", "xxyz"[i], "aaab"[i]) for i in range(4)]
    names.write_text("".join(f"{p}, {'xyz'.index(f)}, {'ab'.index(c)}\n" for p, f, c in rows))
    table = tmp_path / "names.csv"
    table.write_text("fine,fine id,coarse,coarse id\nx,0,a,0\ny,1,a,0\nz,2,b,1\n")
    (checkpoints / "run" / "recipe.yaml").write_text(
        f"data: {{layout: list, val: ['{names}'], class_names: '{table}'}}\nlicence_data: by hand\n"
    )
    export(str(checkpoints / "run"), str(tmp_path / "a"))
    artifact = read_artifact(tmp_path / "a")
    np.testing.assert_array_equal(read_golden(artifact).truth, [[0, 0], [0, 0], [0, 1], [1, 2]])
    assert artifact.manifest.main_metric == "fine.top1"
    assert artifact.manifest.licence.data == "by hand"
    assert artifact.manifest.name == "a"
    (checkpoints / "run" / "recipe.yaml").unlink()


def test_position_grid_is_resampled_for_another_size() -> None:
    trained = classifier()
    other = at_size(trained, (48, 24))
    assert other.model.backbone.pos_embed.shape == (1, 1 + 6 * 3, 32)
    with torch.no_grad():
        assert other.model(torch.zeros(1, 3, 48, 24))[1].shape == (1, 3)
    assert trained.model.backbone.pos_embed.shape == (1, 21, 32)
    assert other.preprocess.size == (48, 24)


def test_mismatch_leaves_nothing(
    checkpoints: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.TASKS["restore"].tolerances, "fp32", {"max_abs": 1e-9})
    with pytest.raises(VerificationError) as error:
        export(str(checkpoints / "restore"), str(tmp_path / "a"), data=str(photos / "clean"))
    assert error.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"formats": ("coreml",)}, UsageError, "unknown format 'coreml'"),
        ({"formats": ()}, UsageError, "no format"),
        ({"data": None}, UsageError, "no images"),
        ({"layout": "classes"}, UsageError, "classes"),
        ({"data": "nowhere"}, DataError, "nowhere"),
        ({"checkpoint": "nothing"}, UsageError, "no checkpoint"),
    ],
)
def test_errors(checkpoints: Path, photos: Path, tmp_path: Path, change: dict, kind: type, message: str) -> None:
    arguments = {
        "checkpoint": str(checkpoints / "restore"),
        "out": str(tmp_path / "a"),
        "data": str(photos / "clean"),
        **change,
    }
    with pytest.raises(kind, match=message) as error:
        export(**arguments)
    assert error.value.exit_code == (3 if kind is DataError else 2)
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_unless_told(checkpoints: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    arguments = {
        "checkpoint": str(checkpoints / "restore"),
        "out": str(tmp_path / "a"),
        "data": str(photos / "clean"),
        "goldens": 1,
    }
    with pytest.raises(UsageError, match="already exists"):
        export(**arguments)
    assert export(**arguments, formats="onnx", replace_existing=True).goldens == 1


def test_impossible_size_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as error:
        at_size(classifier(), (3, 3))
    assert error.value.exit_code == 2


def test_a_folder_of_somebody_else_is_not_replaced(checkpoints: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years")
    arguments = {"checkpoint": str(checkpoints / "restore"), "out": str(tmp_path / "mine"), "replace_existing": True}
    with pytest.raises(UsageError, match="holds no artifact"):
        export(**arguments, data=str(photos / "clean"), goldens=1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("place", ["best", "trials/a-64x64/best"])
def test_the_recipe_of_a_run_is_found_from_the_run(place: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_checkpoint(run / place, restorer())
    assert recipe_of(str(run)) is None
    (run / "recipe.yaml").write_text("licence_data: mine")
    for given in (run, run / place):
        recipe = recipe_of(str(given))
        assert recipe is not None
        assert recipe.licence_data == "mine"
