"""``predict --compare`` and ``--strength``: what is written, under which names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pocketvit.cli import main
from pocketvit.errors import UsageError
from pocketvit.serve.compare import BAR, GAP, HALF, compare_picture
from pocketvit.serve.predict import predict
from pocketvit.spec.images import read_image, write_image
from tests.tiny import make_tiny_artifact, noisy, photo


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("compare") / "restore").path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png")):
        write_image(tmp_path / "in" / name, noisy(photo(80, 120, seed)))
    return tmp_path


def test_both_halves_are_the_pixels_of_before_and_after(
    restorer: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", restorer, "in", "--compare", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    for row in rows:
        assert row["compare"] == row["output"].replace(".png", ".compare.png")
        both, before, after = (read_image(row[name]) for name in ("compare", "image", "output"))
        assert (both[BAR : BAR + 80, :120] == before).all()
        assert (both[BAR : BAR + 80, 120 + GAP : 240 + GAP] == after).all()
        assert (both[:BAR, :120] < 128).any()  # a name is written there


def test_nothing_is_overwritten(restorer: str, folder: Path) -> None:
    write_image(folder / "in" / "a.compare.png", photo(40, 40))
    write_image(folder / "out" / "b.compare.png", photo(40, 40))
    files = ["in/a.png", "in/a.compare.png", "in/b.png"]
    names = [(p.output.name, p.compare.name) for p in predict(restorer, files, out="out", compare=True).predictions]
    assert names == [
        ("a.png", "a.compare_2.png"),
        ("a.compare.png", "a.compare.compare.png"),
        ("b.png", "b.compare_2.png"),
    ]
    assert (read_image(folder / "out" / "b.compare.png") == photo(40, 40)).all()
    inside = predict(restorer, ["in/a.png"], out="in", compare=True, overwrite=True).predictions[0]
    assert inside.compare is not None
    assert inside.compare.name == "a_2.compare.png"
    assert (read_image(folder / "in" / "a.compare.png") == photo(40, 40)).all()


def test_large_photos_give_a_picture_of_bounded_size_with_details_at_their_own() -> None:
    before = np.full((1500, 2400, 3), 90, np.uint8)
    before[1000:1100, 2000:2100] = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    after = before.copy()
    after[200:300, 300:400] += 9
    both = compare_picture(before, after)
    assert both.shape[1] == 2 * HALF + GAP
    assert both.shape[0] < 1100
    assert (both == compare_picture(before, after)).all()
    details = both[BAR + 600 + GAP + BAR : -GAP, :HALF]
    noise = before[1000:1100, 2000:2100].repeat(2, 0).repeat(2, 1)  # each pixel as 2x2
    corner = np.argwhere((details[:, :, 0] != 90) & (details[:, :, 0] != 255))[0]
    assert (details[corner[0] : corner[0] + 200, corner[1] : corner[1] + 200] == noise).mean() > 0.99


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (20, 20), (200, 200)])
def test_photos_of_every_size(size: tuple[int, int]) -> None:
    both = compare_picture(photo(*size), photo(*size))
    assert both.dtype == np.uint8
    assert (both[BAR : BAR + size[0], : size[1]] == photo(*size)).all()


def test_strength_of_predict(restorer: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", restorer, "in/a.png", "--strength", "0", "--out", "none.png"]) == 0
    assert (read_image(folder / "none.png") == read_image(folder / "in" / "a.png")).all()
    capsys.readouterr()
    assert main(["predict", restorer, "in/a.png", "--strength", "1.5", "--out", "more.png"]) == 0
    assert "twice" in capsys.readouterr().out
    for wrong in ("-1", "2.1", "nan"):
        assert main(["predict", restorer, "in/a.png", "--strength", wrong, "--out", "wrong.png"]) == 2
    assert not (folder / "wrong.png").exists()


def test_classifiers_have_neither(folder: Path, tmp_path: Path) -> None:
    classifier = str(make_tiny_artifact(tmp_path / "classify", "classify").path)
    with pytest.raises(UsageError, match="compare goes with answers that are pictures"):
        predict(classifier, ["in"], compare=True)
    with pytest.raises(UsageError, match="strength goes with pictures"):
        predict(classifier, ["in"], strength=0.5)
