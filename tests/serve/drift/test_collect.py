"""Corrections are kept whole, in a form that training reads; all else is refused, and nothing is kept unasked."""

from __future__ import annotations

import csv
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from pocketvit.data.layouts import READERS
from pocketvit.errors import DataError
from pocketvit.runtimes.model import load
from pocketvit.serve.drift import collect
from pocketvit.serve.drift.collect import Collection
from pocketvit.serve.drift.routes import feedback_routes
from pocketvit.serve.drift.start import watching
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.services import Limits
from pocketvit.serve.options import Watch
from pocketvit.spec.images import read_image
from tests.serve.asking import ask, png
from tests.tiny import coloured, make_tiny_artifact, noisy, photo


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("collected")
    return Models(Served.of(load(make_tiny_artifact(folder / task, task).path)) for task in ("classify", "restore"))


@pytest.fixture
def app(models: Models, tmp_path: Path) -> FastAPI:
    with watching(models, Watch(), str(tmp_path / "kept")) as extras:
        return make_app(models, Limits(max_megapixels=0.1), routers=extras.routers)


def correct(app: FastAPI, model: str, label: str | None = None, **files: Any) -> httpx.Response:
    asked = {"model": model} | ({} if label is None else {"label": label})
    sent = {name: (f"{name}.png", content) for name, content in files.items()}
    return ask(app, "POST", "/v1/feedback", params=asked, files=sent)


def test_classes_are_kept_as_a_list_that_training_reads(app: FastAPI, tmp_path: Path) -> None:
    images = [coloured(i, seed=i) for i in range(4)]
    for image, label in zip(images, ("red", "warm/yellow", "green", "cold/blue"), strict=True):
        answer = correct(app, "tiny-classify", label, image=png(image))
        assert answer.status_code == 201, answer.text
    assert answer.json() == {**answer.json(), "model": "tiny-classify", "version": "0.1.0", "corrections": 4}
    rows, notes = READERS["list"](tmp_path / "kept" / "tiny-classify" / "corrections.txt", "train")
    assert notes == []
    assert [row.labels for row in rows] == [("warm", "red"), ("warm", "yellow"), ("cold", "green"), ("cold", "blue")]
    for row, image in zip(rows, images, strict=True):
        np.testing.assert_array_equal(read_image(row.path), image)
    log = list(csv.reader((tmp_path / "kept" / "tiny-classify" / "log.csv").open()))
    assert log[0][2:] == ["0.1.0", log[0][3], "warm", "red"]
    assert len(log) == 4


def test_pictures_are_kept_as_pairs_that_training_reads(app: FastAPI, tmp_path: Path) -> None:
    clean = photo(50, 60)
    answer = correct(app, "tiny-restore", image=png(noisy(clean)), target=png(clean))
    assert answer.status_code == 201, answer.text
    ((row,), notes) = READERS["pairs"](tmp_path / "kept" / "tiny-restore" / "pairs", "train")
    assert notes == []
    assert row.clean is not None
    np.testing.assert_array_equal(read_image(row.path), noisy(clean))
    np.testing.assert_array_equal(read_image(row.clean), clean)


def test_what_cameras_write_beside_the_pixels_is_not_kept(app: FastAPI, tmp_path: Path) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x010F], exif[0x0112] = "SecretCamera", 6
    Image.fromarray(coloured(0)).save(buffer, "JPEG", exif=exif)
    assert correct(app, "tiny-classify", "red", image=buffer.getvalue()).status_code == 201
    (kept,) = (tmp_path / "kept").rglob("*.png")
    assert b"SecretCamera" not in kept.read_bytes()
    assert read_image(kept).shape == (56, 40, 3)  # turned as the model saw it


def test_what_is_wrong_is_refused_and_leaves_nothing(app: FastAPI, tmp_path: Path) -> None:
    red, clean = png(coloured(0)), png(photo(50, 60))
    refused = [
        (400, "no class of", correct(app, "tiny-classify", "purple", image=red)),
        (400, "say the right class", correct(app, "tiny-classify", image=red)),
        (400, "goes with classes", correct(app, "tiny-restore", "red", image=clean, target=clean)),
        (400, "send image and target", correct(app, "tiny-restore", image=clean)),
        (400, "nothing else", correct(app, "tiny-classify", "red", image=red, target=red)),
        (400, "different sizes", correct(app, "tiny-restore", image=clean, target=red)),
        (422, "image", correct(app, "tiny-classify", "red", image=b"no picture")),
        (413, "megapixels", correct(app, "tiny-classify", "red", image=png(photo(400, 400)))),
        (404, "no model", correct(app, "other", "red", image=red)),
        (415, "form", ask(app, "POST", "/v1/feedback?model=tiny-classify&label=red", content=red)),
        (400, "model", ask(app, "POST", "/v1/feedback", content=red)),
    ]
    for status, words, answer in refused:
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


def test_a_photo_has_one_correction(app: FastAPI) -> None:
    assert correct(app, "tiny-classify", "red", image=png(coloured(0))).status_code == 201
    assert correct(app, "tiny-classify", "blue", image=png(coloured(0))).status_code == 409
    pair = {"image": png(noisy(photo(50, 60))), "target": png(photo(50, 60))}
    assert [correct(app, "tiny-restore", **pair).status_code for _ in range(2)] == [201, 409]


def test_the_collection_is_bounded_over_restarts_too(models: Models, tmp_path: Path) -> None:
    for turn in range(2):
        app = make_app(models, routers=[feedback_routes(Collection(tmp_path, most=3))])
        sent = [correct(app, "tiny-classify", "red", image=png(coloured(0, seed=10 * turn + i))) for i in range(2)]
        pair = {"image": png(noisy(photo(50, 60), seed=turn)), "target": png(photo(50, 60))}
        assert [each.status_code for each in sent] == ([409, 409] if turn else [201, 201])
        assert correct(app, "tiny-restore", **pair).status_code == (409 if turn else 201)
    app = make_app(models, routers=[feedback_routes(Collection(tmp_path, most_bytes=1000))])
    assert correct(app, "tiny-classify", "red", image=png(coloured(0, seed=99))).status_code == 409


def test_half_of_a_correction_is_not_read(
    app: FastAPI, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves: a photo without its line, a pair that was not renamed. The same correction can come again."""
    with monkeypatch.context() as patch:
        patch.setattr(collect, "_append", lambda path, cells: 1 / 0)
        assert correct(app, "tiny-classify", "red", image=png(coloured(0))).status_code == 500
    assert correct(app, "tiny-classify", "blue", image=png(coloured(3))).status_code == 201
    half = tmp_path / "kept" / "tiny-restore" / "pairs" / ".x.abcdefgh"
    half.mkdir(parents=True)
    Image.fromarray(photo(9, 9)).save(half / "photo_noisy.png")
    pair = {"image": png(noisy(photo(50, 60))), "target": png(photo(50, 60))}
    assert correct(app, "tiny-restore", **pair).status_code == 201
    assert len(READERS["list"](tmp_path / "kept" / "tiny-classify" / "corrections.txt", "train")[0]) == 1
    assert len(READERS["pairs"](tmp_path / "kept" / "tiny-restore" / "pairs", "train")[0]) == 1
    assert correct(app, "tiny-classify", "red", image=png(coloured(0))).status_code == 201


def test_without_the_option_there_is_no_such_address(models: Models) -> None:
    answer = correct(make_app(models), "tiny-classify", "red", image=png(coloured(0)))
    assert answer.status_code == 404


def test_posts_side_by_side_do_not_wait_for_each_other_and_never_exceed_the_bounds(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, meet, real = models.find("tiny-classify"), threading.Barrier(2, timeout=60), collect.write_image
    monkeypatch.setattr(collect, "write_image", lambda *given: (meet.wait(), real(*given)))
    kept = Collection(tmp_path / "n", most=2)
    for _ in range(5):
        kept.check(served, "red")  # all have come before the first one is kept

    def post(seed: int) -> int:
        try:
            kept.add(served, {"image": coloured(0, seed=seed)}, "red")
        except Refusal as refusal:
            return refusal.status
        return 201

    with ThreadPoolExecutor(5) as pool:
        assert sorted(pool.map(post, range(5))) == [201, 201, 409, 409, 409]
    assert len((tmp_path / "n" / "tiny-classify" / "corrections.txt").read_text().splitlines()) == 2
    monkeypatch.setattr(collect, "write_image", real)
    kept = Collection(tmp_path / "b", most_bytes=2 * coloured(0).nbytes)
    assert 409 in map(post, range(1000, 1100))
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "b").rglob("*.png")) <= 2 * coloured(0).nbytes


def test_a_photo_that_is_being_kept_is_not_taken_twice_and_may_come_again_after_a_fault(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, kept, given = models.find("tiny-classify"), Collection(tmp_path, most=1), {"image": coloured(0)}
    real = collect.write_image

    def again(*args: Any) -> None:
        with pytest.raises(Refusal, match="already"):
            kept.add(served, given, "red")
        raise DataError("full", "wait")

    monkeypatch.setattr(collect, "write_image", again)
    with pytest.raises(DataError):
        kept.add(served, given, "red")
    monkeypatch.setattr(collect, "write_image", real)
    assert kept.add(served, given, "red")["corrections"] == 1
