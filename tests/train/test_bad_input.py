import shutil
from pathlib import Path

import pytest

import pocketvit
from pocketvit.errors import DataError
from tests.bad_images import READABLE, UNREADABLE, write_bad_images

from .helpers import classify_recipe, restore_recipe, write_classes, write_photos


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_bad_images(tmp_path_factory.mktemp("bad"), huge=False)


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_image_that_cannot_be_decoded_stops_training_with_its_name_until_it_is_quarantined(
    tmp_path: Path, bad: dict[str, Path], name: str
) -> None:
    folder = write_photos(tmp_path / "d", 3)
    copy = folder / bad[name].name
    shutil.copyfile(bad[name], copy)
    recipe = restore_recipe(folder, **{"train.epochs": 1, "data.val": [str(write_photos(tmp_path / "v", 1, side=80))]})
    with pytest.raises(DataError) as caught:
        pocketvit.train(recipe, name="r", runs=str(tmp_path), quiet=True)
    assert copy.name in caught.value.what
    assert "doctor" in caught.value.todo
    assert caught.value.exit_code == 3
    assert pocketvit.doctor(str(folder), quarantine=True).exit_code == 0
    assert pocketvit.train(recipe, name="r", runs=str(tmp_path), quiet=True).info["train_images"] == 3


@pytest.mark.slow
def test_every_odd_but_readable_image_trains_both_tasks(tmp_path: Path, bad: dict[str, Path]) -> None:
    names = [name for name in READABLE if name in bad and name != "huge"]
    folder = write_photos(tmp_path / "d", 2)
    classes = write_classes(tmp_path / "c", 4)
    for name in names:
        shutil.copyfile(bad[name], folder / bad[name].name)
        shutil.copyfile(bad[name], classes / "red" / bad[name].name)
    restored = pocketvit.train(
        restore_recipe(folder, **{"train.epochs": 1, "data.val": [str(write_photos(tmp_path / "v", 1, side=80))]}),
        name="r",
        runs=str(tmp_path),
        quiet=True,
    )
    assert restored.info["train_images"] == 2 + len(names)
    report = pocketvit.train(classify_recipe(classes, **{"train.epochs": 1}), name="k", runs=str(tmp_path), quiet=True)
    assert report.info["metrics"]["label.top1"] >= 0


def test_an_empty_folder_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        pocketvit.train(restore_recipe(tmp_path / "empty"), name="r", runs=str(tmp_path), quiet=True)
    assert not (tmp_path / "r").exists()
