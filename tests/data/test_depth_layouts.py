"""Photos with depth maps: where readers find them, what they leave out, how photo and map become one sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.data.augment import vary_map
from pocketvit.data.begin import first_recipe
from pocketvit.data.cases import condition_names, eval_cases, main_condition
from pocketvit.data.collections import load_collection, load_splits
from pocketvit.data.crops import training_sample
from pocketvit.data.decode import read_item
from pocketvit.data.layouts import READERS
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.preprocess import Preprocess, nearest
from pocketvit.spec.recipe import DataConfig, TrainConfig
from pocketvit.spec.tasks.depth import DEPTH
from tests import depth_net
from tests.data.helpers import SHARED, needs_shared, write

SPEC = Preprocess(size=(24, 32), resize="stretch")


def depth_map(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values.astype(np.float32))
    else:
        Image.fromarray(np.rint(1000 * values).astype(np.uint16)).save(path)
    return path


def frames(root: Path, count: int) -> Path:
    for i in range(count):
        write(root / f"frame-{2 * i:06d}.color.png")
        depth_map(root / f"frame-{2 * i:06d}.depth.png", np.full((40, 56), 1 + i / 10))
    return root


def test_the_last_fifth_of_each_sequence_validates(tmp_path: Path) -> None:
    frames(tmp_path / "seq-01", 10)
    frames(tmp_path / "seq-02", 5)
    train, _ = READERS["scenes7"](tmp_path, "train")
    val, notes = READERS["scenes7"](tmp_path, "val")
    assert [row.path.name[6:12] for row in val] == ["000016", "000018", "000008"]
    assert len(train) == 12
    assert not {row.path for row in train} & {row.path for row in val}
    assert {row.unit for row in val} == {0.001}
    assert notes == []
    (tmp_path / "seq-02" / "frame-000008.depth.png").unlink()
    rows, notes = READERS["scenes7"](tmp_path, "test")
    assert len(rows) == 2
    assert "1 frames" in notes[0]
    with pytest.raises(DataError, match="holds no frame"):
        READERS["scenes7"](write(tmp_path / "other" / "a.png").parent, "train")


@needs_shared
def test_the_shared_frames_are_split_at_400() -> None:
    data = DataConfig(train=(str(SHARED / "scenes7"),), val=(str(SHARED / "scenes7"),), layout="scenes7")
    splits = load_splits(data, "depth")
    numbers = [[int(item.path.name[6:12]) for item in part.items] for part in (splits.train, splits.val)]
    assert (numbers[0][0], numbers[0][-1], numbers[1][0], numbers[1][-1]) == (0, 398, 400, 498)
    photo, depth = read_item(splits.val, splits.val.items[0])
    assert photo.shape[:2] == depth.shape == (480, 640)
    known = depth[depth > 0]
    assert 0.3 < known.min() < known.max() < 10
    assert 0.5 < known.size / depth.size < 1
    assert main_condition(data, "depth") == "scenes7"


def test_maps_lie_beside_photos_or_in_folders(tmp_path: Path) -> None:
    values = np.full((40, 56), 2.5)
    for photo, depth in {
        "a/x.jpg": "a/x.png",
        "a/y.png": "a/y_depth.png",
        "a/z.jpg": "a/z.npy",
        "b/rgb/s/1.png": "b/depth/s/1.png",
        "b/rgb/2.jpg": "b/depth/2.npy",
        "b/rgb/3.jpg": "b/depth/3_depth.png",
        "c/Images/1.jpg": "c/Depth/1.npy",
    }.items():
        write(tmp_path / photo)
        depth_map(tmp_path / depth, values)
    write(tmp_path / "a" / "lonely.jpg")
    for name, count in {"a": 3, "b": 3, "c": 1}.items():
        rows, notes = READERS["depth"](tmp_path / name, "train")
        assert len(rows) == count
        assert all(row.unit == (1.0 if row.clean.suffix == ".npy" else 0.001) for row in rows)
        assert (["1 photos" in note for note in notes]) == [True] * (name == "a")
        collection = load_collection([str(tmp_path / name)], DataConfig(layout="depth"), "depth", "val")
        for item in collection.items:
            np.testing.assert_allclose(read_item(collection, item)[1], values, rtol=1e-6)
    with pytest.raises(DataError, match="no photo with a depth map"):
        READERS["depth"](write(tmp_path / "d" / "a.jpg").parent, "train")


def test_the_recipe_may_state_the_unit(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    Image.fromarray(np.full((40, 56), 512, np.uint16)).save(tmp_path / "a.png")
    data = DataConfig(layout="depth", depth_unit=1 / 256)
    collection = load_collection([str(tmp_path)], data, "depth", "val")
    (case,) = eval_cases(collection, data)
    np.testing.assert_array_equal(case.truth, np.full((40, 56), 2, np.float32))
    with pytest.raises(UsageError, match=r"data\.depth_unit"):
        DataConfig(depth_unit=0)


def test_sizes_that_do_not_go_together_and_damaged_maps_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    depth_map(tmp_path / "a.npy", np.ones((20, 28)))
    collection = load_collection([str(tmp_path)], DataConfig(layout="depth"), "depth", "val")
    assert read_item(collection, collection.items[0])[1].shape == (20, 28)
    depth_map(tmp_path / "a.npy", np.ones((20, 40)))
    with pytest.raises(DataError, match=r"56x40, but its depth map .*a.npy is 40x20"):
        read_item(collection, collection.items[0])
    (tmp_path / "a.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.npy") as caught:
        read_item(collection, collection.items[0])
    assert "--quarantine" in caught.value.todo


def test_cases_are_scored_by_every_protocol_that_is_asked_for(tmp_path: Path) -> None:
    root = str(depth_net.folder(tmp_path, 2))
    data = DataConfig(layout="depth", protocol=("nyu", "nyu+median"))
    collection = load_collection([root], data, "depth", "val")
    assert condition_names(collection, data) == ["nyu", "nyu+median"]
    assert [case.condition for case in eval_cases(collection, data)] == ["nyu"] * 2 + ["nyu+median"] * 2
    assert [case.condition for case in eval_cases(collection, data, only="nyu")] == ["nyu"] * 2
    assert main_condition(data, "depth") == "nyu"
    assert main_condition(DataConfig(layout="depth"), "depth") == "plain"
    with pytest.raises(UsageError, match="nyuu"):
        load_collection([root], replace(data, protocol=("nyuu",)), "depth", "val")
    with pytest.raises(UsageError, match="no depth to score"):
        load_collection([root], DataConfig(), "depth", "val")
    with pytest.raises(UsageError, match=r"data\.protocol"):
        load_collection([root], DataConfig(protocol=("nyu",), layout="pairs"), "restore", "val")


def test_nearest_takes_the_value_under_each_centre() -> None:
    values = np.arange(48).reshape(6, 8)
    np.testing.assert_array_equal(nearest(values, (6, 8)), values)
    np.testing.assert_array_equal(nearest(values, (12, 16))[::2, ::2], values)
    np.testing.assert_array_equal(nearest(values, (3, 4)), values[1::2, 1::2])
    np.testing.assert_array_equal(nearest(values, (3, 4), (0.5, 0.5, 1, 1)), values[3:, 4:])


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo whose red and green are each pixel's place, and a map that holds its column plus 1."""
    y, x = np.mgrid[0:height, 0:width]
    photo = np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x], 2)
    return np.rint(photo).astype(np.uint8), (x + 1).astype(np.float32)


def test_photo_and_map_are_cut_and_mirrored_together_and_depth_follows_the_zoom() -> None:
    spec = replace(SPEC, interpolation="bilinear")
    photo, depth = coordinates(120, 160)
    mirrored, zooms = set(), []
    for seed in range(20):
        train = TrainConfig(augment="crop", crop_scale=(0.25, 1.0), jitter=0.0)
        rng = np.random.default_rng(seed)
        share = np.sqrt(np.random.default_rng(seed).uniform(0.25, 1.0))
        image, truth = vary_map((photo, depth), spec, train, DEPTH.partner.enlarged, rng)
        assert (image.shape, truth.shape) == ((24, 32, 3), (24, 32))
        column = image[..., 0] / 255 * 159 + 1  # which the map holds too, divided by the zoom
        np.testing.assert_allclose(truth / share, column, atol=4)
        across, down = np.ptp(image[12, :, 0]) / 255, np.ptp(image[:, 16, 1]) / 255
        assert across == pytest.approx(down, abs=0.06), "things are stretched as in evaluation"
        zooms.append(1 / share)
        mirrored.add(bool(truth[0, 0] > truth[0, -1]))
    assert mirrored == {True, False}
    assert min(zooms) < 1.2 < 1.7 < max(zooms)


def test_samples_without_augmentation_are_those_of_evaluation(tmp_path: Path) -> None:
    data, plain = DataConfig(layout="depth"), TrainConfig(augment="none")
    collection = load_collection([str(depth_net.folder(tmp_path, 2))], data, "depth", "train")
    case = next(eval_cases(collection, data))
    image, truth = training_sample(collection, data, SPEC, plain, 0, 0)
    np.testing.assert_array_equal(truth, nearest(case.truth, SPEC.size))
    assert (image.shape, image.dtype, truth.dtype) == ((24, 32, 3), np.uint8, np.float32)
    flipped = [training_sample(collection, data, SPEC, TrainConfig(augment="flip"), epoch, 0) for epoch in range(8)]
    same = {bool((photo == image).all() and (depth == truth).all()) for photo, depth in flipped}
    turned = [(a[:, ::-1] == image).all() and (b[:, ::-1] == truth).all() for a, b in flipped if (a != image).any()]
    assert same == {True, False}
    assert all(turned)


def test_photos_of_layout_clean_have_no_depth(tmp_path: Path) -> None:
    data = DataConfig()
    write(tmp_path / "a.png")
    collection = load_collection([str(tmp_path)], data, "depth", "train")
    _, truth = training_sample(collection, data, SPEC, TrainConfig(), 0, 0)
    assert truth.shape == (24, 32)
    assert not truth.any()


def test_a_folder_with_depth_begins_a_recipe_of_its_own(tmp_path: Path) -> None:
    document, notes = first_recipe(depth_net.folder(tmp_path / "a", 3), {})
    assert (document["task"], document["data"]["layout"]) == ({"name": "depth"}, "depth")
    assert "3 photos with depth maps" in notes[0]
    document, _ = first_recipe(frames(tmp_path / "b", 5), {})
    assert document["data"]["layout"] == "scenes7"
    assert document["data"]["val"] == document["data"]["train"]
    for i in range(2):
        write(tmp_path / "c" / "rgb" / f"{i}.jpg")
        depth_map(tmp_path / "c" / "depth" / f"{i}.png", np.ones((40, 56)))
    assert first_recipe(tmp_path / "c", {})[0]["data"]["layout"] == "depth"
    write(tmp_path / "d" / "a.jpg")
    write(tmp_path / "d" / "a.png")  # a copy in another format, no map
    assert first_recipe(tmp_path / "d", {})[0]["data"]["layout"] == "clean"
