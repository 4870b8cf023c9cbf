from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketvit.data.cases import eval_cases, main_condition
from pocketvit.data.collections import load_collection, load_splits
from pocketvit.data.loader import Loader
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.images import read_image
from pocketvit.spec.metrics import psnr
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig
from pocketvit.spec.tasks import TASKS
from tests.data.helpers import SHARED, class_folders, clean_folder, needs_shared, write


def test_clean_photos_follow_the_eight_bit_protocol(tmp_path: Path) -> None:
    data = DataConfig(eval_sigma=(15.0, 50.0))
    collection = load_collection([str(clean_folder(tmp_path, 3))], data, "restore", "val")
    cases = list(eval_cases(collection, data))
    assert [case.condition for case in cases] == ["sigma15"] * 3 + ["sigma50"] * 3
    for sigma, part in ((15, cases[:3]), (50, cases[3:])):
        rng = np.random.default_rng(0)
        for case in part:
            clean = read_image(case.path)
            expected = np.clip(np.round(clean + rng.normal(0, sigma, clean.shape)), 0, 255).astype(np.uint8)
            assert np.array_equal(case.truth, clean)
            assert np.array_equal(case.image, expected)


def test_poisson_conditions_say_so(tmp_path: Path) -> None:
    data = DataConfig(noise="poisson", shot=(0.0, 0.02), eval_sigma=(0.0, 10.0, 20.0))
    collection = load_collection([str(clean_folder(tmp_path, 1, height=96, width=96))], data, "restore", "val")
    cases = list(eval_cases(collection, data))
    assert [case.condition for case in cases] == ["sigma0shot0.01", "sigma10shot0.01", "sigma20shot0.01"]
    assert main_condition(data, "restore") == "sigma10shot0.01"
    errors = [np.std(case.image.astype(float) - case.truth) for case in cases]
    assert errors[0] == pytest.approx(255 * np.sqrt(0.01 * cases[0].truth.mean() / 255), rel=0.1)
    assert errors[0] < errors[1] < errors[2]


def test_main_condition_is_the_middle_sigma_of_clean_photos() -> None:
    assert main_condition(DataConfig(), "restore") == "sigma25"
    assert main_condition(DataConfig(eval_sigma=(12.5,)), "restore") == "sigma12.5"
    assert main_condition(DataConfig(layout="pairs"), "restore") == ""
    assert main_condition(DataConfig(layout="classes"), "classify") == ""
    for wrong in ((), (15.0, -1.0)):
        with pytest.raises(UsageError, match="eval_sigma"):
            main_condition(DataConfig(eval_sigma=wrong), "restore")


def test_pairs_and_labels_come_as_they_are(tmp_path: Path) -> None:
    noisy, clean = write(tmp_path / "p" / "a_real.png", 1), write(tmp_path / "p" / "a_mean.png", 2)
    data = DataConfig(layout="pairs")
    (case,) = eval_cases(load_collection([str(tmp_path / "p")], data, "restore", "val"), data)
    assert np.array_equal(case.image, read_image(noisy))
    assert np.array_equal(case.truth, read_image(clean))
    assert (case.condition, case.path) == ("", noisy)
    data = DataConfig(layout="classes")
    root = class_folders(tmp_path / "c", {"x/a": 1, "y/b": 1})
    cases = list(eval_cases(load_collection([str(root)], data, "classify", "val"), data))
    assert [case.truth.tolist() for case in cases] == [[0, 0], [1, 1]]
    assert cases[0].truth.dtype == np.int64


def test_limit_is_spread_over_the_collection(tmp_path: Path) -> None:
    data = DataConfig(layout="classes")
    collection = load_collection([str(class_folders(tmp_path, {"a": 4, "b": 4, "c": 4}))], data, "classify", "val")
    assert [int(case.truth[0]) for case in eval_cases(collection, data, 3)] == [0, 1, 2]
    assert len(list(eval_cases(collection, data, 99))) == 12
    assert len(list(eval_cases(collection, data, 1))) == 1


def test_pairs_of_two_sizes_and_damaged_files_are_errors(tmp_path: Path) -> None:
    write(tmp_path / "a_real.png", height=40)
    write(tmp_path / "a_mean.png", height=41)
    data = DataConfig(layout="pairs")
    collection = load_collection([str(tmp_path)], data, "restore", "val")
    with pytest.raises(DataError, match=r"56x40, but its clean partner .*a_mean\.png is 56x41"):
        list(eval_cases(collection, data))
    (tmp_path / "a_mean.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a_mean\.png: the file is empty") as caught:
        list(eval_cases(collection, data))
    assert f"pocketvit doctor {tmp_path} --quarantine" in caught.value.todo


@needs_shared
def test_noisy_val32_has_the_published_psnr() -> None:
    data = DataConfig(eval_sigma=(25.0,))
    collection = load_collection([str(SHARED / "bsds500" / "val32")], data, "restore", "val")
    assert np.mean([psnr(case.image, case.truth) for case in eval_cases(collection, data)]) == pytest.approx(
        20.51, abs=0.005
    )


def test_a_task_of_another_kind_is_served_by_its_record_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_colour(image: np.ndarray, clean: np.ndarray | None, labels: tuple[int, ...]) -> np.ndarray:
        assert clean is None
        return image.mean(axis=(0, 1), dtype=np.float32)

    record = replace(TASKS["classify"], name="colour", layouts=("clean",), labelled=False, truth=mean_colour)
    monkeypatch.setitem(TASKS, "colour", record)
    data = DataConfig(train=(str(clean_folder(tmp_path, 4)),), noise="none", val_share=0.5)
    splits = load_splits(data, "colour")
    assert splits.train.levels == ()
    assert main_condition(data, "colour") == ""
    cases = list(eval_cases(splits.val, data))
    assert [case.condition for case in cases] == ["", ""]
    assert np.array_equal(cases[0].image, read_image(cases[0].path))
    assert np.array_equal(cases[0].truth, cases[0].image.mean(axis=(0, 1), dtype=np.float32))
    spec = Preprocess(size=(16, 24))
    loader = Loader(splits.train, data, spec, TrainConfig(batch_size=2))
    ((inputs, targets),) = loader.epoch(0)
    assert inputs.shape == (2, 16, 24, 3)
    np.testing.assert_allclose(targets, inputs.numpy().mean(axis=(1, 2)), rtol=1e-5)  # of the augmented photo
    with pytest.raises(UsageError, match=r"layout classes does not go with task\.name colour"):
        load_splits(replace(data, layout="classes"), "colour")
