from __future__ import annotations

import dataclasses
import os
import signal
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from pocketvit.data import crops, decode
from pocketvit.data.collections import Collection, load_collection
from pocketvit.data.loader import Loader, batches_per_epoch
from pocketvit.errors import DataError
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig
from tests.data.helpers import class_folders, clean_folder
from tests.zygote import Zygote

PREPROCESS = Preprocess(size=(16, 16))


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Collection, DataConfig]:
    data = DataConfig(patch=16, patches_per_image=2, sigma=(0, 50))
    return load_collection([str(clean_folder(tmp_path, 5))], data, "restore", "train"), data


def same(a: list[tuple[torch.Tensor, torch.Tensor]], b: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for first, second in zip(a, b, strict=True) for x, y in zip(first, second, strict=True)
    )


def test_batches_are_the_samples_in_epoch_order(photos: tuple[Collection, DataConfig]) -> None:
    collection, data = photos
    train = TrainConfig(batch_size=3, seed=7)
    batches = list(Loader(collection, data, PREPROCESS, train).epoch(2))
    assert (
        len(batches) == batches_per_epoch(collection, data, train) == 3
    )  # ten samples: the last partial batch is dropped
    order = crops.epoch_order(collection, data, train, 2)
    for k, (inputs, targets) in enumerate(batches):
        assert inputs.dtype == targets.dtype == torch.uint8
        assert inputs.shape == targets.shape == (3, 16, 16, 3)
        expected = [
            crops.training_sample(collection, data, PREPROCESS, train, 2, int(i)) for i in order[3 * k : 3 * k + 3]
        ]
        assert np.array_equal(inputs.numpy(), np.stack([x for x, _ in expected]))
        assert np.array_equal(targets.numpy(), np.stack([y for _, y in expected]))


def test_workers_and_repeats_change_nothing(photos: tuple[Collection, DataConfig]) -> None:
    collection, data = photos
    loader = Loader(collection, data, PREPROCESS, TrainConfig(batch_size=4))
    alone, second = list(loader.epoch(0)), list(loader.epoch(1))
    assert same(alone, list(loader.epoch(0)))
    assert not same(alone, second)
    settings = dataclasses.replace(data, workers=2)
    with closing(Loader(collection, settings, PREPROCESS, TrainConfig(batch_size=4))) as several:
        assert same(alone, list(several.epoch(0)))
        next(several.epoch(1))  # an epoch that is broken off leaves nothing behind for the next one
        assert same(second, list(several.epoch(1)))
        assert same(second[1:], list(several.epoch(1, start_batch=1)))


def test_processes_and_what_they_have_decoded_live_over_epochs_and_end_with_the_loader(
    photos: tuple[Collection, DataConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, data = photos
    log, original = tmp_path / "decoded.txt", decode.read_image

    def logged(path: Path) -> np.ndarray:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {path}\n")
        return original(path)

    monkeypatch.setattr(decode, "read_image", logged)  # the processes are forks of this one
    monkeypatch.setattr(crops, "CACHE", decode.ImageCache(1 << 20))
    settings = dataclasses.replace(data, workers=1)
    with closing(Loader(collection, settings, PREPROCESS, TrainConfig(batch_size=5))) as loader:
        for epoch in range(3):
            assert len(list(loader.epoch(epoch))) == 2
        lines = log.read_text().splitlines()
        assert len(lines) == len(set(lines)) == 5
        (process,) = {int(line.split()[0]) for line in lines}
        assert process != os.getpid()
        assert psutil.pid_exists(process)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(process)


@pytest.mark.slow
def test_killing_the_run_leaves_no_processes(tmp_path: Path, zygote: Zygote) -> None:
    code = f"""
import time, psutil
from pocketvit.data.collections import load_collection
from pocketvit.data.loader import Loader
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig
data = DataConfig(patch=16, workers=2)
collection = load_collection([{str(clean_folder(tmp_path, 4))!r}], data, "restore", "train")
loader = Loader(collection, data, Preprocess(size=(16, 16)), TrainConfig(batch_size=2))
list(loader.epoch(0))
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
time.sleep(60)
"""
    process = zygote.start(code, tmp_path / "log")
    while process.poll() is None and not (process.log.exists() and process.log.read_text().endswith("\n")):
        time.sleep(0.02)
    children = [int(pid) for pid in process.log.read_text().split()]
    assert len(children) >= 2
    assert process.kill() == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(psutil.pid_exists, children))


def test_start_batch_skips_without_loading(
    photos: tuple[Collection, DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, data = photos
    loader = Loader(collection, data, PREPROCESS, TrainConfig(batch_size=2))
    whole = list(loader.epoch(0))
    loaded = []
    original = crops.training_sample
    monkeypatch.setattr(crops, "training_sample", lambda *args: loaded.append(args[-1]) or original(*args))
    assert same(list(loader.epoch(0, start_batch=3)), whole[3:])
    assert len(loaded) == 4
    assert list(loader.epoch(0, start_batch=5)) == []


def test_one_partial_batch_is_kept_where_it_is_the_only_one(photos: tuple[Collection, DataConfig]) -> None:
    collection, data = photos
    (batch,) = Loader(collection, data, PREPROCESS, TrainConfig(batch_size=64)).epoch(0)
    assert batch[0].shape[0] == 10


def test_classify_targets_hold_all_levels(tmp_path: Path) -> None:
    data = DataConfig(layout="classes")
    collection = load_collection([str(class_folders(tmp_path, {"x/a": 2, "y/b": 2}))], data, "classify", "train")
    (batch,) = Loader(collection, data, PREPROCESS, TrainConfig(batch_size=4)).epoch(0)
    assert batch[0].shape == (4, 16, 16, 3)
    assert batch[1].dtype == torch.int64
    assert sorted(batch[1].tolist()) == [[0, 0], [0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_stay_data_errors_across_processes(tmp_path: Path, workers: int) -> None:
    clean_folder(tmp_path, 4)
    (tmp_path / "photo2.png").write_bytes(b"")
    data = DataConfig(patch=16, workers=workers)
    collection = load_collection([str(tmp_path)], data, "restore", "train")
    with pytest.raises(DataError, match=r"photo2\.png: the file is empty") as caught:
        list(Loader(collection, data, PREPROCESS, TrainConfig(batch_size=2)).epoch(0))
    assert "--quarantine" in caught.value.todo
