from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pocketvit.errors import DataError, UsageError
from pocketvit.models import trained as module
from pocketvit.models.shapes import shapes_of
from pocketvit.models.trained import META, WEIGHTS, find_checkpoint, read_meta, save_checkpoint
from pocketvit.spec.artifact import shipped_root
from pocketvit.tasks.load import free_size, load_checkpoint
from tests.export.nets import classifier, restorer


@pytest.mark.parametrize("make", [classifier, restorer])
def test_all_that_is_known_of_a_model_comes_back(make: object, tmp_path: Path) -> None:
    model = replace(make(), info={"images_seen": 7, "metrics": {"x": 1.5}})  # type: ignore[operator]
    save_checkpoint(tmp_path / "run" / "best", model)
    loaded = load_checkpoint(tmp_path / "run")
    assert (loaded.levels, loaded.preprocess) == (model.levels, free_size(model.model, model.preprocess))
    assert loaded.task.name == model.task.name
    assert read_meta(tmp_path / "run" / "best")["task"] == loaded.task
    assert loaded.info == model.info
    assert not loaded.model.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), model.model.parameters(), strict=True))
    assert read_meta(tmp_path / "run" / "best")["shapes"] == shapes_of(model.model.state_dict())
    assert (tmp_path / "run" / "best" / WEIGHTS).stat().st_mode & 0o777 == 0o644


def test_averaged_weights_are_saved_in_place_of_the_models(tmp_path: Path) -> None:
    model = classifier()
    average = {name: torch.zeros_like(value) for name, value in model.model.state_dict().items()}
    save_checkpoint(tmp_path, model, average)
    assert all(not parameter.any() for parameter in load_checkpoint(tmp_path).model.parameters())
    assert any(parameter.any() for parameter in model.model.parameters())


def test_a_checkpoint_from_before_shapes_were_recorded_loads(tmp_path: Path) -> None:
    folder = shipped_root() / "denoise-color-checkpoint"
    assert find_checkpoint("denoise-color") == folder
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    described = json.loads((old / META).read_text())
    assert described.pop("shapes")["stem.weight"] == [48, 12, 3, 3]
    (old / META).write_text(json.dumps(described))
    assert read_meta(old)["shapes"] == {}
    image, (shipped, before) = torch.rand(1, 3, 20, 30), (load_checkpoint(place) for place in ("denoise-color", old))
    assert (before.model_spec, before.task) == (shipped.model_spec, shipped.task)
    assert (before.model_spec.name, before.task.name) == ("restorer_s", "restore")
    with torch.inference_mode():
        assert torch.equal(before.model(image), shipped.model(image))


def test_a_fits_checkpoint_is_that_of_the_trial_it_chose(tmp_path: Path) -> None:
    run, only = tmp_path / "run", tmp_path / "run" / "trials" / "a-32x32" / "best"
    save_checkpoint(only, classifier())
    assert find_checkpoint(run) == only
    other = run / "trials" / "b-32x32" / "best"
    save_checkpoint(other, classifier())
    with pytest.raises(UsageError, match="holds 2 trained models"):
        find_checkpoint(run)
    (run / "finished.json").write_text('{"trial": "b-32x32"}')
    assert find_checkpoint(run) == other
    (run / "finished.json").write_text("[]")
    with pytest.raises(UsageError, match="holds 2 trained models"):
        find_checkpoint(run)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": 3}', '{"model": {}, "task": {"name": "x"}, "levels": [], "preprocess": {}}']
)
def test_a_damaged_description_is_a_data_error(text: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, restorer())
    (tmp_path / META).write_text(text)
    with pytest.raises(DataError, match=r"model\.json: cannot be read") as caught:
        load_checkpoint(tmp_path)
    assert caught.value.exit_code == 3


def test_weights_of_another_model_are_a_data_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", restorer())
    save_checkpoint(tmp_path / "b", classifier())
    (tmp_path / "a" / WEIGHTS).write_bytes((tmp_path / "b" / WEIGHTS).read_bytes())
    with pytest.raises(DataError, match="does not fit"):
        load_checkpoint(tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).write_bytes(b"\xff" * 99)
    with pytest.raises(DataError, match="cannot be read"):
        load_checkpoint(tmp_path / "a")
    with pytest.raises(UsageError, match="no checkpoint"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), safetensors.SafetensorError("No space")])
def test_a_full_disk_leaves_the_checkpoint_that_was_there(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, restorer())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(DataError, match="No space"):
        save_checkpoint(tmp_path, classifier())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
