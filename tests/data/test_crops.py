from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.data import crops
from pocketvit.data.augment import symmetry
from pocketvit.data.collections import Collection, load_collection
from pocketvit.data.crops import MIN_BLOCK_IMAGES, epoch_length, epoch_order, training_sample
from pocketvit.data.decode import ImageCache, default_limit
from pocketvit.errors import DataError
from pocketvit.spec.images import read_image
from pocketvit.spec.preprocess import Preprocess, prepare
from pocketvit.spec.recipe import DataConfig, TrainConfig
from tests.data.helpers import class_folders, clean_folder, write

PREPROCESS = Preprocess(size=(24, 32))


def restore(root: Path, **fields: object) -> tuple[Collection, DataConfig]:
    data = DataConfig(**{"patch": 16, **fields})
    return load_collection([str(root)], data, "restore", "train"), data


def is_inside(crop: np.ndarray, image: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)[:, :, 0]
    return any((windows == symmetry(crop, k)).all(axis=(2, 3, 4)).any() for k in range(8))


def test_restore_samples_are_pure_functions(tmp_path: Path) -> None:
    collection, data = restore(clean_folder(tmp_path, 3), patches_per_image=2, sigma=(5, 40))
    assert epoch_length(collection, data) == 6

    def sample(seed: int, epoch: int, index: int) -> bytes:
        return b"".join(
            part.tobytes()
            for part in training_sample(
                collection, data, PREPROCESS, TrainConfig(seed=seed), epoch, index, ImageCache(0)
            )
        )

    base = sample(0, 0, 0)
    assert base == sample(0, 0, 0)
    assert len({base, sample(1, 0, 0), sample(0, 1, 0), sample(0, 0, 1), sample(7, 0, 0)}) == 5


def test_restore_crops_come_from_the_image_of_their_index(tmp_path: Path) -> None:
    collection, data = restore(clean_folder(tmp_path, 2), patches_per_image=3, sigma=(25, 25))
    for index in range(6):
        noisy, clean = training_sample(collection, data, PREPROCESS, TrainConfig(), 0, index)
        assert noisy.shape == clean.shape == (16, 16, 3)
        assert noisy.dtype == clean.dtype == np.uint8
        assert [is_inside(clean, read_image(item.path)) for item in collection.items] == [index < 3, index >= 3]
        assert 15 < (noisy.astype(float) - clean).std() < 35


def test_augment_none_neither_flips_nor_turns(tmp_path: Path) -> None:
    collection, data = restore(clean_folder(tmp_path, 1, height=16, width=16))
    image = read_image(collection.items[0].path)
    plain = [
        training_sample(collection, data, PREPROCESS, TrainConfig(augment="none"), epoch, 0)[1] for epoch in range(4)
    ]
    assert all(np.array_equal(crop, image) for crop in plain)
    turned = {
        training_sample(collection, data, PREPROCESS, TrainConfig(), epoch, 0)[1].tobytes() for epoch in range(60)
    }
    assert len(turned) == 8


def test_pairs_are_cut_and_turned_alike(tmp_path: Path) -> None:
    base = write(tmp_path / "a_mean.png", 4)
    Image.fromarray(255 - read_image(base)).save(tmp_path / "a_real.png")
    collection, data = restore(tmp_path, layout="pairs")
    for epoch in range(8):
        noisy, clean = training_sample(collection, data, PREPROCESS, TrainConfig(), epoch, 0)
        assert np.array_equal(noisy, 255 - clean)


def test_a_pair_among_clean_photos_gets_no_noise(tmp_path: Path) -> None:
    """Corrections of a restorer are trained on beside photos with synthetic noise."""
    photos = load_collection([str(clean_folder(tmp_path / "p"))], DataConfig(), "restore", "train")
    first, second, *_ = photos.items
    mixed = dataclasses.replace(photos, items=(dataclasses.replace(first, clean=first.path), second))
    spec, train = Preprocess(), TrainConfig()
    for index, same in ((0, True), (1, False)):
        noisy, clean = training_sample(mixed, DataConfig(patch=16), spec, train, 0, index)
        assert noisy.shape == clean.shape == (16, 16, 3)
        assert np.array_equal(noisy, clean) == same


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (40, 3), (15, 15)])
def test_small_images_are_padded_by_reflection(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "small.png", height=size[0], width=size[1])
    collection, data = restore(tmp_path)
    image = read_image(tmp_path / "small.png")
    _, clean = training_sample(collection, data, PREPROCESS, TrainConfig(augment="none"), 0, 0)
    assert clean.shape == (16, 16, 3)
    assert set(map(tuple, clean.reshape(-1, 3))) <= set(map(tuple, image.reshape(-1, 3)))
    if size == (15, 15):
        assert np.array_equal(clean[15], clean[13])


def test_classify_samples(tmp_path: Path) -> None:
    data = DataConfig(layout="classes")
    collection = load_collection([str(class_folders(tmp_path, {"x/a": 2, "y/b": 1}))], data, "classify", "train")
    image, target = training_sample(collection, data, PREPROCESS, TrainConfig(), 0, 2)
    assert image.shape == (24, 32, 3)
    assert target.tolist() == [1, 1]
    assert target.dtype == np.int64
    plain, _ = training_sample(collection, data, PREPROCESS, TrainConfig(augment="none"), 3, 0)
    assert np.array_equal(plain, prepare(read_image(collection.items[0].path), PREPROCESS))


@pytest.mark.parametrize(("resize", "suffix"), [("crop", "png"), ("stretch", "jpg")])
def test_without_augmentation_a_large_photo_is_resized_once(tmp_path: Path, resize: str, suffix: str) -> None:
    path = write(tmp_path / "a" / f"big.{suffix}", height=300, width=410)
    collection = load_collection([str(tmp_path)], DataConfig(layout="classes"), "classify", "train")
    spec, cache = Preprocess(size=(24, 32), resize=resize), ImageCache(1 << 20)
    expected = prepare(read_image(path), spec)
    for name in ("none", "flip"):
        samples = [
            training_sample(collection, DataConfig(), spec, TrainConfig(augment=name), epoch, 0, cache)[0]
            for epoch in range(3)
        ]
        allowed = [expected] if name == "none" else [expected, expected[:, ::-1]]
        assert all(any(np.array_equal(sample, one) for one in allowed) for sample in samples)


def test_order_and_samples_draw_from_different_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection, data = restore(clean_folder(tmp_path, 2))
    made: list[str] = []
    original = np.random.default_rng

    def record(seed: tuple[int, ...]) -> np.random.Generator:
        generator = original(seed)
        made.append(str(generator.bit_generator.state))
        return generator

    monkeypatch.setattr(np.random, "default_rng", record)
    for epoch in range(3):
        epoch_order(collection, data, TrainConfig(), epoch)
        for index in range(2):
            training_sample(collection, data, PREPROCESS, TrainConfig(), epoch, index)
    assert len(set(made)) == len(made) == 9


def test_a_file_that_was_replaced_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, images = ImageCache(1 << 20), []
    for k, folder in enumerate(("a", "b")):  # the same relative path, in two places
        write(tmp_path / folder / "set" / "photo.png", k)
        monkeypatch.chdir(tmp_path / folder)
        collection = load_collection(["set"], DataConfig(), "restore", "train")
        images.append(cache.get(collection, collection.items[0])[0])
        assert np.array_equal(images[k], read_image("set/photo.png"))
    write(tmp_path / "b" / "set" / "photo.png", 7)
    assert np.array_equal(cache.get(collection, collection.items[0])[0], read_image("set/photo.png"))
    for name, seed in (("set/photo.bmp", 8), ("other.bmp", 9)):  # of one size
        write(tmp_path / "b" / name, seed)
        os.utime(name, (1, 1))
    bitmaps = load_collection(["set/photo.bmp"], DataConfig(), "restore", "train")
    cache.get(bitmaps, bitmaps.items[0])
    os.replace("other.bmp", "set/photo.bmp")  # path, size and time are those of the file before
    assert np.array_equal(cache.get(bitmaps, bitmaps.items[0])[0], read_image("set/photo.bmp"))
    (tmp_path / "b" / "set" / "photo.png").unlink()
    with pytest.raises(DataError, match="no such file"):
        cache.get(collection, collection.items[0])


def test_large_photos_are_shrunk_before_they_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "a" / "big.png", height=300, width=400)
    data, cache = DataConfig(layout="classes"), ImageCache(1 << 20)
    collection = load_collection([str(tmp_path)], data, "classify", "train")
    training_sample(collection, data, PREPROCESS, TrainConfig(crop_scale=(0.25, 1.0)), 0, 0, cache)
    assert cache.bytes == 64 * 85 * 3  # the smallest crop, a quarter of the area, still has 32 pixels a side


def test_order_is_a_permutation_of_seed_and_epoch(tmp_path: Path) -> None:
    collection, data = restore(clean_folder(tmp_path, 2 * MIN_BLOCK_IMAGES + 5, height=8, width=8), patches_per_image=3)
    order = epoch_order(collection, data, TrainConfig(seed=1), 0)
    assert sorted(order.tolist()) == list(range(3 * len(collection.items)))
    assert np.array_equal(order, epoch_order(collection, data, TrainConfig(seed=1), 0))
    assert not np.array_equal(order, epoch_order(collection, data, TrainConfig(seed=1), 1))
    assert not np.array_equal(order, epoch_order(collection, data, TrainConfig(seed=2), 0))
    assert (
        len(set((order[: 3 * MIN_BLOCK_IMAGES] // 3).tolist())) > MIN_BLOCK_IMAGES
    )  # small files are shuffled as a whole
    single = epoch_order(collection, dataclasses.replace(data, patches_per_image=1), TrainConfig(), 0)
    assert sorted(single.tolist()) == list(range(len(collection.items)))


def test_crops_of_large_files_stay_close_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection, data = restore(clean_folder(tmp_path, 2 * MIN_BLOCK_IMAGES + 5, height=8, width=8), patches_per_image=3)
    monkeypatch.setattr(crops, "BLOCK_BYTES", 1)
    order = epoch_order(collection, data, TrainConfig(seed=1), 0)
    assert sorted(order.tolist()) == list(range(3 * len(collection.items)))
    images = order // 3
    assert (
        len(set(images[: 3 * MIN_BLOCK_IMAGES].tolist())) == MIN_BLOCK_IMAGES
    )  # few images are needed in memory at a time
    assert len(set(images[:8].tolist())) > 3
    collection.items[0].path.unlink()
    assert len(epoch_order(collection, data, TrainConfig(), 0)) == len(order)


def test_cache_is_bounded_and_does_not_change_samples(tmp_path: Path) -> None:
    collection, data = restore(clean_folder(tmp_path, 4))
    one = 40 * 56 * 3
    cache = ImageCache(2 * one)
    kept = [training_sample(collection, data, PREPROCESS, TrainConfig(), 0, i, cache)[1] for i in (0, 1, 2, 3, 3, 0)]
    assert cache.bytes == 2 * one
    assert all(
        np.array_equal(a, training_sample(collection, data, PREPROCESS, TrainConfig(), 0, i, ImageCache(0))[1])
        for a, i in zip(kept, (0, 1, 2, 3, 3, 0), strict=True)
    )
    assert cache.get(collection, collection.items[0])[0] is cache.get(collection, collection.items[0])[0]
    assert 0 < default_limit(4) <= default_limit() <= 2 << 30


def test_damaged_images_say_what_to_do(tmp_path: Path) -> None:
    for name in ("a", "b"):
        clean_folder(tmp_path / name, 1)
    (tmp_path / "b" / "photo0.png").write_bytes(b"no image")
    data = DataConfig()
    collection = load_collection([str(tmp_path / "a"), str(tmp_path / "b")], data, "restore", "train")
    with pytest.raises(DataError, match=r"b/photo0\.png: cannot be decoded") as caught:
        training_sample(collection, data, PREPROCESS, TrainConfig(), 0, 1, ImageCache())
    assert f"pocketvit doctor {tmp_path / 'a'} --others {tmp_path / 'b'} --quarantine" in caught.value.todo
    assert caught.value.exit_code == 3


def test_restore_patches_are_fast(tmp_path: Path) -> None:
    collection, data = restore(
        clean_folder(tmp_path, 8, height=160, width=160), patch=64, patches_per_image=40, sigma=(0, 50)
    )
    for index in range(0, 320, 40):
        training_sample(collection, data, PREPROCESS, TrainConfig(), 0, index)
    began = time.process_time()
    for index in range(320):
        training_sample(collection, data, PREPROCESS, TrainConfig(), 1, index)
    assert 320 / (time.process_time() - began) > 1500  # about 6000 a second on one core
