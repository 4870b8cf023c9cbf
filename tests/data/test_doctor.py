from __future__ import annotations

import json
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.data.collections import load_collection
from pocketvit.data.doctor import doctor
from pocketvit.data.inspect import inspect_file
from pocketvit.data.quarantine import FILE_NAME
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.images import FORMATS, IMAGE_SUFFIXES, read_image
from pocketvit.spec.recipe import DataConfig
from tests.bad_images import READABLE, UNREADABLE, write_bad_images
from tests.data.helpers import SHARED, class_folders, clean_folder, list_file, needs_shared, write


def names(paths: object) -> list[str]:
    return [Path(path).name for path in paths]  # type: ignore[attr-defined]


def test_every_bad_image_is_put_in_its_place(tmp_path: Path) -> None:
    files = write_bad_images(tmp_path, huge=False)
    report = doctor(str(tmp_path), workers=2, huge_megapixels=0.01)
    assert sorted(report.damaged) == sorted(str(files[name]) for name in UNREADABLE)
    assert report.damaged[str(files["zero_byte"])] == "the file is empty (0 bytes)"
    assert "not an image" in report.damaged[str(files["text"])]
    assert report.mislabelled == {str(files["mislabelled"]): "PNG"}
    assert report.tiny == {str(files["one_pixel"]): "1x1"}
    assert report.rotated == (str(files["exif_rotated"]),)
    assert report.animated == (str(files["animated"]),)
    assert report.empty_folders == (str(files["empty_folder"]),)
    assert str(files["cmyk"]) in report.huge
    assert (report.images, report.ok, report.exit_code) == (len(files) - 1, False, 3)
    text = report.render()
    assert "damaged: 3" in text
    assert "png_named.jpg: is PNG" in text
    assert f"pocketvit doctor {tmp_path} --quarantine" in text


@pytest.mark.slow
def test_a_hundred_megapixels_are_huge_but_sound(tmp_path: Path) -> None:
    files = write_bad_images(tmp_path)
    found = inspect_file(files["huge"])
    assert (found.width, found.height, found.error, found.megapixels) == (10_000, 10_000, "", 100.0)
    assert found.pixels  # all of it was decoded


def test_readers_agree_with_the_doctor(tmp_path: Path) -> None:
    files = write_bad_images(tmp_path, huge=False)
    for name in UNREADABLE:
        with pytest.raises(DataError, match=files[name].name):
            read_image(files[name])
    shapes = {name: read_image(files[name]).shape for name in READABLE if name != "huge"}
    assert shapes.pop("one_pixel") == (1, 1, 3)
    assert shapes.pop("exif_rotated") == (128, 96, 3)
    assert set(shapes.values()) == {(96, 128, 3)}


def test_quarantine_moves_nothing_and_readers_leave_the_files_out(tmp_path: Path) -> None:
    files = write_bad_images(tmp_path, huge=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    report = doctor(str(tmp_path), quarantine=True)
    assert (report.ok, report.exit_code) == (True, 0)
    assert report.quarantine == (str(tmp_path / FILE_NAME),)
    assert all(path.read_bytes() == content for path, content in before.items())
    kept = load_collection([str(tmp_path)], DataConfig(), "restore", "train")
    assert {item.path for item in kept.items} == {files[name] for name in READABLE if name != "huge"}
    again = doctor(str(tmp_path))
    assert (again.damaged, again.skipped, again.exit_code) == ({}, 3, 0)
    assert "3 quarantined files skipped" in again.render()
    write(tmp_path / "later.png").write_bytes(b"")
    assert doctor(str(tmp_path)).exit_code == 3
    doctor(str(tmp_path), quarantine=True)
    assert doctor(str(tmp_path)).skipped == 4


def test_duplicates_within_and_across_splits(tmp_path: Path) -> None:
    root = clean_folder(tmp_path / "set" / "train", 3).parent
    (root / "val").mkdir()
    shutil.copy(root / "train" / "photo0.png", root / "val" / "copy.png")
    Image.open(root / "train" / "photo1.png").save(root / "train" / "photo1.bmp")
    found = {names(group.paths)[0]: group for group in doctor(str(root)).duplicates}
    assert found["photo0.png"].same == "file"
    assert found["photo0.png"].across == ("train", "val")
    assert sorted(names(found["photo1.bmp"].paths)) == ["photo1.bmp", "photo1.png"]
    assert (found["photo1.bmp"].same, found["photo1.bmp"].across) == ("pixels", ())
    assert len(found) == 2
    report = doctor(str(root / "train"), others=[str(root / "val")])
    assert next(g for g in report.duplicates if g.across).across == (str(root / "train"), str(root / "val"))
    text = report.render()
    assert "in several splits: 1" in text
    assert "(same pixels, other file)" in text


def test_class_counts_of_folders_and_lists(tmp_path: Path) -> None:
    report = doctor(str(class_folders(tmp_path / "c", {"cat": 3, "dog/small": 1})))
    assert report.classes == {"cat": 3, "dog/small": 1}
    assert "from 1 images (dog/small) to 3 (cat)" in report.render()
    file = list_file(tmp_path / "l", ["a.png, 5, 1", "b.png, 5, 1", "c.png, 0, 0"])
    assert doctor(str(file)).classes == {"0 > 0": 1, "1 > 5": 2}
    plain = tmp_path / "l" / "plain.txt"
    plain.write_text("a.png\nb.png\n")
    assert doctor(str(plain)).images == 2
    assert doctor(str(tmp_path / "l" / "a.png")).images == 1
    both = doctor(str(tmp_path / "c"), others=[str(file), str(tmp_path / "c")])
    assert both.images == 7
    assert both.classes[f"{tmp_path / 'c'}: cat"] == 3


def test_limits_are_options(tmp_path: Path) -> None:
    clean_folder(tmp_path, 2, height=40, width=56)
    assert doctor(str(tmp_path)).tiny == {}
    assert len(doctor(str(tmp_path), small=41).tiny) == 2
    assert len(doctor(str(tmp_path), huge_megapixels=0.002).huge) == 2
    for wrong in ({"small": -1}, {"huge_megapixels": 0.0}, {"workers": 0}):
        with pytest.raises(UsageError, match="workers at least 1"):
            doctor(str(tmp_path), **wrong)


def test_reports_are_plain_json_and_can_be_written(tmp_path: Path) -> None:
    write_bad_images(tmp_path / "bad", huge=False)
    report = doctor(str(tmp_path / "bad"), out=str(tmp_path / "report.json"))
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert written["ok"] is False
    assert len(written["damaged"]) == 3
    with pytest.raises(DataError, match="cannot be written"):
        doctor(str(tmp_path / "bad"), out=str(tmp_path / "report.json" / "below.json"))


def test_folders_without_images_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        with pytest.raises(DataError, match=folder) as caught:
            doctor(str(tmp_path / folder))
        assert caught.value.exit_code == 3
    damaged = write(tmp_path / "all" / "a.png")
    damaged.write_bytes(b"")
    doctor(str(tmp_path / "all"), quarantine=True)
    with pytest.raises(DataError, match="all 1 images are quarantined"):
        doctor(str(tmp_path / "all"))


def test_long_lists_are_cut_for_people_and_not_in_json(tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path / f"{i:02}.png").write_bytes(b"junk")
    report = doctor(str(tmp_path))
    assert "... and 4 more" in report.render()
    assert len(report.to_dict()["damaged"]) == 12


def test_every_suffix_has_its_formats_and_threads_keep_the_pixel_limit(tmp_path: Path) -> None:
    assert set(FORMATS) == set(IMAGE_SUFFIXES)
    files = []
    for suffix in sorted(IMAGE_SUFFIXES):
        path = tmp_path / f"photo{suffix}"
        image = Image.open(write(tmp_path / "source.png"))
        (image.convert("L") if suffix == ".pgm" else image).save(path)
        files.append(path)
    limit = Image.MAX_IMAGE_PIXELS
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        findings = list(pool.map(inspect_file, files * 20))
    assert limit == Image.MAX_IMAGE_PIXELS
    assert warnings.filters == filters
    assert not any(finding.error or finding.mislabelled for finding in findings)
    assert np.unique([finding.sha256 for finding in findings]).size == len({path.read_bytes() for path in files})


@needs_shared
@pytest.mark.slow
def test_bsds_is_sound() -> None:
    report = doctor(str(SHARED / "bsds500" / "val32"))
    assert (report.images, report.ok, report.duplicates, report.tiny) == (32, True, (), {})
