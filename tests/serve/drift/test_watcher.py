"""From requests to statistics, references, changes and a page; beside the work, bounded, and over restarts."""

from __future__ import annotations

import gc
import json
import sqlite3
import threading
import time
import weakref
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError, UsageError
from pocketvit.runtimes.model import Model, load
from pocketvit.serve.drift import watcher as watching_module
from pocketvit.serve.drift.page import page
from pocketvit.serve.drift.report import report
from pocketvit.serve.drift.start import watching
from pocketvit.serve.drift.statistics import photo_statistics
from pocketvit.serve.drift.watcher import Watcher
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.services import Outcome, Ran
from pocketvit.serve.options import Watch
from pocketvit.spec.images import read_image
from tests.serve.asking import ask, png
from tests.tiny import coloured, make_tiny_artifact, photo


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("watched")
    return {task: load(make_tiny_artifact(folder / task, task).path) for task in ("classify", "restore")}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many first requests are the reference, in place of 200."""
    monkeypatch.setattr(watching_module, "LEARN", 40)
    return 40


def send(watcher: Watcher, model: Model, photos: list[np.ndarray], seconds: float = 0.01) -> None:
    served = Served.of(model)
    for each in photos:
        watcher(Ran(served, seconds, Outcome(b"", {}, each, model(each))))
        assert watcher.settle()


def send_one(watcher: Watcher, model: Model) -> list[dict[str, Any]]:
    send(watcher, model, photos(1, seed=9000))
    found: list[dict[str, Any]] = report(watcher)["models"]
    return found


def photos(count: int, seed: int = 0, dark: float = 1.0) -> list[np.ndarray]:
    return [(coloured(i % 4, seed=seed + i) * dark).astype(np.uint8) for i in range(count)]


def statistics(watcher: Watcher) -> dict[str, dict[str, Any]]:
    (model,) = report(watcher)["models"]
    return {row["name"]: row for row in model["statistics"]}


def test_a_reference_is_learnt_a_change_is_told_and_all_outlasts_a_restart(
    models: dict[str, Model], tmp_path: Path, few: int
) -> None:
    told: list[dict[str, Any]] = []
    watcher = Watcher(tmp_path / "d.db", tell=told.append)
    send(watcher, models["classify"], photos(few - 1))
    rows = statistics(watcher)
    assert {row["status"] for row in rows.values()} == {"learning"}
    assert rows["brightness"]["learnt"] == few - 1
    assert set(rows) == {"brightness", "contrast", "noise", "sharpness", "confidence", "margin", "distance", "latency"}
    send(watcher, models["classify"], photos(21, seed=1000))
    rows = statistics(watcher)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["brightness"]["reference"]["source"] == "first requests"
    assert rows["brightness"]["reference"]["count"] == few
    assert rows["noise"]["current"]["p50"] == pytest.approx(20, rel=0.1)  # what coloured() adds
    assert told == []
    send(watcher, models["classify"], photos(40, seed=2000, dark=0.4))
    assert "brightness" in {event["statistic"] for event in told}
    event = next(event for event in told if event["statistic"] == "brightness")
    assert event["after"] < event["before"]
    assert event["model"] == "tiny-classify"
    assert event["version"] == "0.1.0"
    before = report(watcher)
    watcher.close()
    again = Watcher(tmp_path / "d.db")
    again.begin(Models([Served.of(models["classify"])]))
    assert again.settle()
    ((model,), (known,)) = report(again)["models"], before["models"]
    assert known["status"] == "drift"
    assert {**model, "statistics": 0} == {**known, "statistics": 0}
    for row, other in zip(model["statistics"], known["statistics"], strict=True):
        assert [row[key] for key in ("status", "reference")] == [other[key] for key in ("status", "reference")]
    (answered,) = send_one(again, models["classify"])
    assert answered["requests"] == known["requests"] + 1
    again.close()


def test_photos_of_a_folder_are_the_reference_at_once_but_for_the_latency(
    models: dict[str, Model], tmp_path: Path, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, each in enumerate(photos(36)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(each).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no photo")
    for turn in range(2):
        watcher = Watcher(tmp_path / "d.db", tmp_path / "photos")
        watcher.begin(Models([Served.of(models["classify"])]))
        assert watcher.settle()
        rows = statistics(watcher)
        assert rows.pop("latency")["status"] == "learning"
        assert {(row["reference"]["source"], row["reference"]["count"]) for row in rows.values()} == {("photos", 36)}
        if not turn:
            send(watcher, models["classify"], photos(30, seed=500, dark=0.3))
            assert statistics(watcher)["brightness"]["status"] == "drift"
        watcher.close()
        monkeypatch.setattr(watching_module, "read_image", None)  # the second time the file knows it all
    for path in list((tmp_path / "photos").iterdir())[:20]:
        path.unlink()
    with pytest.raises(DataError, match="too few"):
        Watcher(tmp_path / "d.db", tmp_path / "photos")


def test_a_slow_watcher_keeps_nobody_waiting_and_counts_what_it_missed(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    real = watching_module.photo_statistics
    monkeypatch.setattr(watching_module, "photo_statistics", lambda image: (gate.wait(30), real(image))[1])
    watcher, served, image = Watcher(tmp_path / "d.db"), Served.of(models["restore"]), photo(48, 64)
    ran = Ran(served, 0.01, Outcome(b"", {}, image, models["restore"](image)))
    began = time.monotonic()
    for _ in range(100):
        watcher(ran)
    assert time.monotonic() - began < 0.5
    assert 100 - watching_module.QUEUE - 1 <= watcher.dropped <= 100 - watching_module.QUEUE
    gate.set()
    assert watcher.settle()
    assert report(watcher)["models"][0]["requests"] == 100 - watcher.dropped
    watcher.close()


def test_runs_without_an_answer_for_a_photo_are_not_watched_and_faults_stop_nothing(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, served = Watcher(tmp_path / "d.db"), Served.of(models["restore"])
    watcher(Ran(served, 0.01, None, ValueError()))
    watcher(Ran(served, 0.01, Outcome(b"", {})))
    assert watcher.settle()
    assert report(watcher)["models"] == []
    with monkeypatch.context() as patch:
        patch.setattr(watching_module, "photo_statistics", lambda image: 1 / 0)
        send(watcher, models["restore"], [photo(48, 64)])
    send(watcher, models["restore"], [photo(48, 64)])
    assert (watcher.failed, report(watcher)["models"][0]["requests"]) == (1, 1)
    watcher.close()


def test_the_file_holds_numbers_and_no_photo_and_no_path(models: dict[str, Model], tmp_path: Path, few: int) -> None:
    (tmp_path / "secret-photos").mkdir()
    for i, each in enumerate(photos(30)):
        Image.fromarray(each).save(tmp_path / "secret-photos" / f"secret{i}.png")
    watcher = Watcher(tmp_path / "d.db", tmp_path / "secret-photos")
    send(watcher, models["restore"], [photo(480, 640, seed=i) for i in range(few + 5)])
    watcher.close()
    content = (tmp_path / "d.db").read_bytes()
    assert b"secret" not in content
    assert str(tmp_path).encode() not in content
    assert len(content) < 100_000 < photo(480, 640).nbytes


def test_over_http(models: dict[str, Model], tmp_path: Path, few: int) -> None:
    table = Models(map(Served.of, models.values()))
    with watching(table, Watch(str(tmp_path / "watch")), None) as extras:
        app = make_app(table, routers=extras.routers)
        app.state.services.watchers += extras.watchers
        for each in photos(few + 12) + photos(30, dark=0.3):
            assert ask(app, "POST", "/v1/classify", content=png(each)).status_code == 200
        (watcher,) = extras.watchers
        assert isinstance(watcher, Watcher)
        assert watcher.settle()
        document = ask(app, "GET", "/v1/drift").json()
        answer = ask(app, "GET", "/v1/drift/page")
        assert "/v1/drift/page" in ask(app, "GET", "/openapi.json").json()["paths"]
    states = {each["model"]: each["status"] for each in document["models"]}
    assert states == {"tiny-classify": "drift", "tiny-restore": "learning"}
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    root = ElementTree.fromstring(answer.text)
    svg = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{svg}polyline")) == 8
    (brightness,) = (plot for plot in root.iter(f"{svg}svg") if "brightness" in str(plot[0].text))
    (mark,) = brightness.findall(f"{svg}line")
    assert few + 12 < float(mark.attrib["x1"]) / 640 * (few + 42) < few + 42  # at the request, in the dark part
    assert not root.findall(".//script")
    assert "prefers-color-scheme" in answer.text


@pytest.mark.parametrize("count", [1, 5])
def test_plots_have_axes_while_the_reference_is_learnt(models: dict[str, Model], tmp_path: Path, count: int) -> None:
    watcher = Watcher(tmp_path / "d.db")
    send(watcher, models["classify"], photos(count))
    root = ElementTree.fromstring(page(watcher, report(watcher)))
    watcher.close()
    svg = "{http://www.w3.org/2000/svg}"
    plots = {str(plot[0].text).split()[0]: plot for plot in root.iter(f"{svg}svg")}
    assert {"brightness", "confidence", "latency"} <= set(plots)
    bright = [photo_statistics(each)["brightness"] for each in photos(count)]
    for name, plot in plots.items():
        assert [path.attrib["class"] for path in plot.findall(f"{svg}path")] == ["axis"]
        said = [str(text.text) for text in plot.findall(f"{svg}text")]
        assert "the last request" in said
        assert (f"{count - 1} requests ago" in said) == (count > 1)
        assert name != "latency" or said[0].endswith(" ms")
    high = float(plots["brightness"].findall(f"{svg}text")[0].text or "nan")
    assert high == pytest.approx(max(bright), rel=0.01)


def test_the_page_escapes_what_it_shows(models: dict[str, Model], tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "d.db")
    send(watcher, models["classify"], photos(1))
    document = json.loads(json.dumps(report(watcher)).replace("tiny-classify", "<b>&'x"))
    root = ElementTree.fromstring(page(watcher, document))
    assert "<b>&'x 0.1.0" in "".join(root.itertext())
    assert not root.findall(".//b")
    watcher.close()


def test_options_that_do_not_go_together_and_nothing_without_them(tmp_path: Path) -> None:
    for options in ({"reference": "x"}, {"alert_url": "http://x/"}):
        with pytest.raises(UsageError, match=r"goes with --watch\.folder"):
            Watch(**options)
    wrong = Watch(str(tmp_path), alert_url="nowhere")
    with pytest.raises(UsageError, match="alert_url"), watching(Models([]), wrong, None):
        pass
    with watching(Models([]), Watch(), None) as extras:
        assert (extras.routers, extras.watchers) == ((), ())
    assert list(tmp_path.iterdir()) == []


def reference_folder(folder: Path, count: int = 36) -> Path:
    folder.mkdir()
    for i, each in enumerate(photos(count)):
        Image.fromarray(each).save(folder / f"{i}.png")
    return folder


def stored(path: Path) -> Any:
    with closing(sqlite3.connect(path)) as base:
        return base.execute("SELECT data FROM refs").fetchone()


def test_a_reference_that_the_end_of_the_server_cuts_off_is_not_kept_and_is_made_next_time(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table, real = reference_folder(tmp_path / "p"), Models([Served.of(models["classify"])]), read_image
    for last in (0, 32):
        count, reached, ended = iter(range(100)), threading.Event(), threading.Event()

        def read(path: Path, last: int = last, count: Any = count, reached: Any = reached, ended: Any = ended) -> Any:
            if next(count) == last:
                reached.set()
                ended.wait(60)
            return real(path)

        monkeypatch.setattr(watching_module, "read_image", read)
        watcher = Watcher(tmp_path / "d.db", folder)
        watcher.begin(table)
        assert reached.wait(60)
        image = photos(1)[0]
        watcher(Ran(Served.of(models["classify"]), 0.01, Outcome(b"", {}, image, models["classify"](image))))
        watcher._stop = True
        ended.set()
        watcher.close()
        assert not watcher._thread.is_alive()
        assert stored(tmp_path / "d.db") is None
    monkeypatch.setattr(watching_module, "read_image", real)
    watcher = Watcher(tmp_path / "d.db", folder)
    watcher.begin(table)
    assert watcher.settle()
    assert statistics(watcher)["brightness"]["reference"]["count"] == 36
    assert report(watcher)["models"][0]["requests"] == 2  # what waited at the end was stored
    watcher.close()


def test_a_reference_without_values_is_not_kept_and_what_is_learnt_does_not_stand_for_the_folder(
    models: dict[str, Model], tmp_path: Path, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = reference_folder(tmp_path / "p"), Models([Served.of(models["classify"])])
    with monkeypatch.context() as patch:
        patch.setattr(watching_module, "read_image", refuse)
        watcher = Watcher(tmp_path / "d.db", folder)
        watcher.begin(table)
        assert watcher.settle()
        assert stored(tmp_path / "d.db") is None
        send(watcher, models["classify"], photos(few))
        assert statistics(watcher)["brightness"]["reference"]["source"] == "first requests"
        watcher.close()
    watcher = Watcher(tmp_path / "d.db", folder)
    watcher.begin(table)
    assert watcher.settle()
    assert statistics(watcher)["brightness"]["reference"]["source"] == "photos"
    watcher.close()


def refuse(path: Path) -> Any:
    raise DataError(f"{path}: away.", "Wait.")


def test_a_model_that_was_replaced_is_let_go_and_only_the_latest_versions_are_told_of(
    models: dict[str, Model], tmp_path: Path
) -> None:
    watcher, gone, image = Watcher(tmp_path / "d.db"), [], photos(1)[0]
    table = Models([version_of(models["classify"], 0), Served.of(models["restore"])])
    watcher.begin(table)
    for number in range(1, 7):
        table.replace("tiny-classify", version_of(models["classify"], number))
        served = table.current("tiny-classify")
        watcher(Ran(served, 0.01, Outcome(b"", {}, image, served.model(image))))
        gone.append(weakref.ref(served.model))
        del served
        assert watcher.settle()
    gc.collect()
    assert [each() is None for each in gone] == [True] * 5 + [False]
    told = report(watcher)["models"]
    assert [each["version"] for each in told if each["model"] == "tiny-classify"] == [
        "1.0.3",
        "1.0.4",
        "1.0.5",
        "1.0.6",
    ]
    assert "tiny-restore" in {each["model"] for each in told}
    watcher.close()


def version_of(model: Model, number: int) -> Served:
    manifest = model.manifest.model_copy(update={"version": f"1.0.{number}"})
    return Served(replace(model, manifest=manifest), f"digest{number}")
