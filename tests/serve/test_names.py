"""Odd names, and names that are taken: no answer is lost, and nothing of the user's either."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from pathlib import Path

import pytest
from rich.console import Console

from pocketvit.errors import DataError, UsageError
from pocketvit.serve.predict import expand, plan_outputs, predict
from pocketvit.spec.images import write_image
from tests.tiny import coloured, make_tiny_artifact

ODD = [
    *(
        "x[copy]",
        "x[bold]",
        ":smile:",
        "a\nb",
        "x\x85y",
        "esc\x1b[31m",
        "-dash",
        "日本",
        "\u202egnp",
        "n" * 246,
        "n" * 251,
    ),
    os.fsdecode(b"caf\xe9"),
]


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("names") / "restore").path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With labels that look like markup."""
    path = make_tiny_artifact(tmp_path_factory.mktemp("names") / "classify", "classify").path
    manifest = (path / "manifest.json").read_text().replace('"red"', '"[/red]"').replace('"warm"', '"[b]\\n:smile:"')
    (path / "manifest.json").write_text(manifest)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rendered(report: object, width: int = 700) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(report.render())  # type: ignore[attr-defined]
    return page.getvalue()


def test_any_name_that_the_file_system_has(restorer: str, classifier: str, folder: Path) -> None:
    for name in ODD:
        write_image(folder / "in" / f"{name}.png", coloured(0))
    report = predict(restorer, ["in"], out="out")
    assert {path.stem for path in (folder / "out").iterdir()} == set(ODD)
    assert report.exit_code == 0
    predict(restorer, ["in"], out="out")
    assert len(list((folder / "out").iterdir())) == 2 * len(ODD)
    text = rendered(predict(classifier, ["in"], out="a.json"))
    assert len(text.splitlines()) == len(ODD) + 2
    for seen in (
        "x[copy].png",
        "x[bold].png",
        ":smile:.png",
        r"a\nb.png",
        r"esc\x1b[31m.png",
        r"caf\udce9.png",
        "[/red]",
    ):
        assert seen in text
    names = {f"in/{name}.png" for name in ODD}
    assert {row["image"] for row in json.loads((folder / "a.json").read_text("utf-8"))} == names
    predict(classifier, ["in"], out="a.csv")
    with (folder / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows} == {name.replace("\udce9", r"\udce9") for name in names}
    assert {row["fine"] for row in rows} == {"[/red]"}


def test_what_was_there_before_is_not_overwritten(restorer: str, classifier: str, folder: Path) -> None:
    write_image(folder / "a.jpg", coloured(0))
    (folder / "edits").mkdir()
    (folder / "edits" / "A.png").write_bytes(b"mine")
    for number in (2, 3):
        (row,) = predict(restorer, ["a.jpg"], out="edits").predictions
        assert row.output == Path(f"edits/a_{number}.png")
    (row,) = predict(restorer, ["a.jpg"], out="edits/x.png").predictions
    before = (folder / "edits" / "x.png").read_bytes()
    with pytest.raises(UsageError, match=r"x.png is there already"):
        predict(restorer, ["a.jpg"], out="edits/x.png")
    assert (folder / "edits" / "A.png").read_bytes() == b"mine"
    assert (folder / "edits" / "x.png").read_bytes() == before
    for name in ("predictions.csv", "predictions_2.csv"):
        assert predict(classifier, ["a.jpg"], csv=True).table == Path("predictions", name)
    predict(classifier, ["a.jpg"], out="a.json")
    with pytest.raises(UsageError, match=r"a.json is there already"):
        predict(classifier, ["a.jpg"], out="a.json")


def test_overwrite_replaces_what_was_there_but_no_input(restorer: str, classifier: str, folder: Path) -> None:
    write_image(folder / "a.png", coloured(0))
    before = (folder / "a.png").read_bytes()
    for _ in range(2):
        (row,) = predict(restorer, ["a.png"], out=".", overwrite=True).predictions
        assert row.output == Path("a_2.png")
        predict(restorer, ["a.png"], out="x.png", overwrite=True)
        assert predict(classifier, ["a.png"], csv=True, overwrite=True).table == Path("predictions/predictions.csv")
    with pytest.raises(UsageError, match="is the input itself"):
        predict(restorer, ["a.png"], out="a.png", overwrite=True)
    assert (folder / "a.png").read_bytes() == before
    assert sorted(path.name for path in folder.glob("*.png")) == ["a.png", "a_2.png", "x.png"]


def test_a_file_that_appears_meanwhile_is_left_alone(
    restorer: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(folder / "a.png", coloured(0))

    def read(path: Path) -> object:
        (folder / "predictions" / "a.png").write_bytes(b"of another")
        return coloured(0)

    monkeypatch.setattr("pocketvit.serve.predict.read_image", read)
    with pytest.raises(DataError, match="File exists"):
        predict(restorer, ["a.png"])
    assert [path.read_bytes() for path in (folder / "predictions").iterdir()] == [b"of another"]


def test_names_that_are_one_on_other_file_systems_get_numbers(folder: Path) -> None:
    accents = [Path(unicodedata.normalize(form, "é.jpg")) for form in ("NFC", "NFD")]
    files = [Path("a.jpg"), Path("A.jpg"), Path("a.tif"), *accents]
    for _ in range(2):
        names = [path.name for path in plan_outputs(files, "out").values()]
        assert names[:3] == ["a.png", "A_2.png", "a_3.png"]
        assert names[4].endswith("_2.png")
    assert len(plan_outputs([Path(str(i), "same.png") for i in range(3000)], "out")) == 3000


def test_links_in_circles_and_long_names_end_nothing(restorer: str, folder: Path) -> None:
    write_image(folder / "a.png", coloured(0))
    (folder / "loop.png").symlink_to("loop.png")
    long = "x" * 300 + ".png"
    report = predict(restorer, ["a.png", "loop.png", long, "no\0name.png", "none.png"])
    assert (len(report.predictions), report.exit_code) == (1, 3)
    assert [failure.image for failure in report.failures] == ["loop.png", long, "no\0name.png", "none.png"]
    for odd in ("loop.png", long):
        with pytest.raises(DataError, match="cannot be read"):
            predict(restorer, [odd])
    with pytest.raises(DataError, match="too long"):
        predict(restorer, ["a.png"], out=long)


def test_tables_are_no_place_for_pictures(restorer: str, folder: Path) -> None:
    write_image(folder / "a.png", coloured(0))
    for name in ("answers.csv", "answers.JSON"):
        with pytest.raises(UsageError, match="without an image suffix"):
            predict(restorer, ["a.png"], out=name)
        assert not (folder / name).exists()


@pytest.mark.parametrize("top", [0, -1, 6, 99])
def test_no_more_classes_than_there_are(restorer: str, classifier: str, folder: Path, top: int) -> None:
    write_image(folder / "a.png", coloured(0))
    for artifact in (restorer, classifier):
        with pytest.raises(UsageError, match="at least 1 and at most 5"):
            predict(artifact, ["a.png"], top=top)


def test_a_number_is_no_camera_but_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="0: predict reads no cameras"):
        expand(["0"])
    (tmp_path / "0").write_bytes(b"a file")
    assert expand(["0"]) == ([Path("0")], [])


def test_answers_among_the_inputs_are_told(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    for name in ("in", "elsewhere"):
        (tmp_path / name).mkdir()
    write_image(tmp_path / "in" / "x.png", coloured(0))
    told = "the answers lie among the inputs: the next predict on that folder takes them too"
    assert told not in predict(str(artifact.path), [str(tmp_path / "in")], out=str(tmp_path / "elsewhere")).notes
    assert told in predict(str(artifact.path), [str(tmp_path / "in")], out=str(tmp_path / "in")).notes
