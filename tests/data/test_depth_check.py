from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pocketvit.cli import main
from pocketvit.data.collections import load_collection
from pocketvit.data.depth_check import DepthReport, check_depths, depth_entries, look_at_map
from pocketvit.data.doctor import doctor
from pocketvit.data.entries import Entry
from pocketvit.data.kitti import UNIT, project, read_calibration, read_velodyne
from pocketvit.data.layouts import DEPTH_LAYOUTS, READERS
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.recipe import DataConfig
from tests.data.helpers import SHARED, needs_shared, write

READ = {name: READERS[name] for name in DEPTH_LAYOUTS}


def room(height: int = 40, width: int = 56) -> NDArray[np.float64]:
    """Metres, 1 to 4."""
    return np.linspace(1, 4, height * width).reshape(height, width)


def png(path: Path, stored: NDArray[np.float64]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(stored).astype(np.uint16)).save(path)
    return path


def entry(folder: Path, stored: NDArray[np.float64], unit: float = 1e-3, **size: int) -> Entry:
    """A photo and its 16-bit map."""
    return Entry(write(folder / "rgb" / "a.jpg", **size), png(folder / "depth" / "a.png", stored), unit=unit)


def kinds(row: Entry) -> list[tuple[str, str]]:
    return [(finding.severity, finding.kind) for finding in look_at_map(row)[1]]


def test_a_sound_map_has_facts_and_no_findings(tmp_path: Path) -> None:
    stored = room() * 1000
    stored[:, 28:] = 0
    facts, findings = look_at_map(entry(tmp_path, stored))
    assert findings == []
    assert facts is not None
    assert facts.valid == 0.5
    assert (facts.low, facts.median, facts.high) == pytest.approx((1.03, 2.5, 3.95), abs=0.03)
    assert facts.neighbours == pytest.approx(27 / 28)
    assert not facts.smaller


@pytest.mark.parametrize("unit", [1e-3, 1 / 256])
def test_a_wrong_unit_is_suspected(tmp_path: Path, unit: float) -> None:
    stored = room() / unit
    assert kinds(entry(tmp_path / "right", stored, unit)) == []
    assert kinds(entry(tmp_path / "metres", stored, 1.0)) == [("warning", "has another unit")]
    (found,) = look_at_map(entry(tmp_path / "metres", stored, 1.0))[1]
    assert "millimetres" in found.text
    (found,) = look_at_map(entry(tmp_path / "small", np.rint(room()), 1e-3))[1]
    assert (found.kind, found.severity) == ("has another unit", "warning")
    assert "are these metres" in found.text


def test_streets_are_no_wrong_unit(tmp_path: Path) -> None:
    assert kinds(entry(tmp_path, (room() * 20) / UNIT, UNIT)) == []


def test_empty_nearly_empty_and_constant_maps(tmp_path: Path) -> None:
    assert kinds(entry(tmp_path / "a", np.zeros((40, 56)))) == [("warning", "is empty")]
    facts, _ = look_at_map(entry(tmp_path / "a", np.zeros((40, 56))))
    assert facts is not None
    assert (facts.valid, facts.neighbours) == (0, 0)
    few = np.zeros((40, 56))
    few[3, 4], few[7, 8] = 1500, 1600
    assert kinds(entry(tmp_path / "b", few)) == [("warning", "is nearly empty")]
    assert kinds(entry(tmp_path / "c", np.full((40, 56), 2000.0))) == [("warning", "is constant")]


def test_65535_of_integers_is_no_value_and_of_floats_a_finding(tmp_path: Path) -> None:
    stored = room() * 1000
    stored[:10] = 65535
    facts, findings = look_at_map(entry(tmp_path, stored))
    assert findings == []
    assert facts is not None
    assert facts.valid == 0.75
    for value, folder in ((65.535, "m"), (65535.0, "mm")):
        metres = room().astype(np.float32)
        metres[:10] = value
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", metres)
        row = Entry(write(tmp_path / folder / "a.jpg"), tmp_path / folder / "a.npy", unit=1.0)
        assert kinds(row) == [("warning", "has 65535 as a depth")]


def test_maps_of_another_aspect_are_errors_and_of_another_size_are_counted(tmp_path: Path) -> None:
    stored = room() * 1000
    twice = entry(tmp_path / "twice", stored, height=80, width=112)
    facts, findings = look_at_map(twice)
    assert findings == []
    assert facts is not None
    assert facts.smaller
    turned = entry(tmp_path / "turned", stored, height=56, width=40)
    facts, findings = look_at_map(turned)
    assert [finding.severity for finding in findings] == ["error"]
    assert findings[0].text == "56x40, but its photo a.jpg is 40x56"
    assert facts is not None
    assert not facts.smaller


def test_the_orientation_of_a_photo_is_followed(tmp_path: Path) -> None:
    row = entry(tmp_path, room() * 1000)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 56)).save(row.path, exif=exif)  # stored upright, seen lying
    assert kinds(row) == []


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    row = entry(tmp_path / "a", room() * 1000)
    assert row.clean is not None
    row.clean.write_bytes(row.clean.read_bytes()[:200])
    facts, findings = look_at_map(row)
    assert facts is None
    assert (findings[0].severity, findings[0].kind) == ("error", "cannot be read")
    picture = Entry(write(tmp_path / "b.jpg"), write(tmp_path / "b_depth.png"))
    assert "hold no distances" in look_at_map(picture)[1][0].text
    gone = Entry(write(tmp_path / "c.jpg"), tmp_path / "c.png")
    assert look_at_map(gone)[1][0].text == "no such file"


def test_a_damaged_photo_is_told_elsewhere(tmp_path: Path) -> None:
    row = entry(tmp_path, room() * 1000)
    row.path.write_bytes(b"no photo")
    assert kinds(row) == []


def test_the_summary_is_over_all_maps(tmp_path: Path) -> None:
    half = room() * 1000
    half[:20] = 0
    rows = [entry(tmp_path / "a", room() * 1000), entry(tmp_path / "b", half), entry(tmp_path / "c", 0 * half)]
    report = check_depths(rows, workers=2, layout="depth")
    assert (report.maps, report.readable, report.smaller, report.layout) == (3, 3, 0, "depth")
    assert report.valid == pytest.approx(0.5)  # 1, 0.5 and 0
    assert (report.low, report.median, report.high) == pytest.approx((1.03, (2.5 + 3.25) / 2, 3.98), abs=0.02)
    assert report.errors == ()
    assert [finding.kind for finding in report.findings] == ["is empty"]
    assert report.lines(8) == [
        "3 depth maps, 50.0 % of the pixels have a depth, 1.03 to 3.98 m, median 2.88 m",
        "warning: depth map is empty: 1",
        f"  {tmp_path / 'c/depth/a.png'}: no pixel has a depth",
    ]


def test_sparse_ground_truth_is_told(tmp_path: Path) -> None:
    stored = np.zeros((40, 56))
    stored[::2, ::2] = room()[::2, ::2] / UNIT
    report = check_depths([entry(tmp_path, stored, UNIT)])
    assert report.findings == ()
    assert report.lines(8)[1].startswith("sparse ground truth: 0 % of these have a neighbour")


def test_only_the_first_findings_of_a_kind_are_shown(tmp_path: Path) -> None:
    rows = [entry(tmp_path / f"{i:02d}", np.zeros((40, 56))) for i in range(5)]
    lines = check_depths(rows).lines(2)
    assert lines[1] == "warning: depth map is empty: 5"
    assert lines[-1] == "  ... and 3 more (--json lists all)"
    assert len(lines) == 5


def test_no_maps_and_no_readable_maps_have_a_summary() -> None:
    assert check_depths([]).lines(8) == ["0 depth maps"]
    assert json.dumps(check_depths([]).to_dict())


def test_entries_are_of_all_splits_and_each_once(tmp_path: Path) -> None:
    for part in ("train", "test"):
        entry(tmp_path / part, room() * 1000)
    rows = depth_entries([tmp_path, tmp_path], "nyu", READ)
    assert [row.clean for row in rows] == [tmp_path / part / "depth" / "a.png" for part in ("test", "train")]
    with pytest.raises(UsageError, match="no layout 'kiti' with depth maps") as caught:
        depth_entries([tmp_path], "kiti", READ)
    assert caught.value.todo == "Did you mean kitti?"
    with pytest.raises(DataError, match="holds neither a list"):
        depth_entries([tmp_path], "kitti", READ)


# ---- the command


def broken(root: Path) -> dict[str, Path]:
    """A folder with a sound pair, a turned map, a picture in place of a map and a map of another unit."""
    for i, stored in enumerate((room() * 1000, room(56, 40) * 1000, room(), room() * 3000)):
        write(root / "rgb" / f"{i}.jpg", seed=i)
        png(root / "depth" / f"{i}.png", stored)
    write(root / "rgb" / "4.jpg", seed=4)
    write(root / "depth" / "4.png", seed=5)
    return {name: root / "depth" / f"{i}.png" for i, name in enumerate(("good", "turned", "unit", "far", "picture"))}


def report_of(root: Path, **options: bool) -> DepthReport:
    found = doctor(str(root), depth="depth", workers=2, **options).depth
    assert found is not None
    return found


def test_doctor_reports_depth_maps(tmp_path: Path) -> None:
    files = broken(tmp_path)
    report = doctor(str(tmp_path), depth="depth", workers=2)
    assert report.depth is not None
    assert report.damaged == {}
    assert set(report.depth.errors) == {files["turned"], files["picture"]}
    assert (report.ok, report.exit_code) == (False, 3)
    text = report.render()
    assert "5 depth maps, 100.0 % of the pixels have a depth" in text
    assert "error: depth map cannot be read: 1" in text
    assert "error: depth map does not fit its photo: 1" in text
    assert "warning: depth map has another unit: 1" in text
    assert f"Leave them out with: pocketvit doctor {tmp_path} --depth depth --quarantine" in text
    document = json.loads(json.dumps(report.to_dict()))
    assert {each["kind"] for each in document["depth"]["findings"]} == {
        "cannot be read",
        "does not fit its photo",
        "has another unit",
    }
    assert doctor(str(tmp_path), workers=2).depth is None


def test_depth_maps_are_not_looked_at_as_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write(tmp_path / "rgb" / f"{name}.jpg")
    maps = {
        str(png(tmp_path / "depth" / f"{name}.png", np.full((40, 56), steps)))
        for name, steps in (("a", 2000.0), ("b", 2001.0))  # the same in their upper 8 bits
    }
    assert main(["doctor", str(tmp_path), "--depth", "depth", "--noise"]) == 0
    said = capsys.readouterr()
    assert "2 depth maps" in said.out
    assert "8 are kept" not in said.out + said.err
    report = doctor(str(tmp_path), depth="depth", noise=True, workers=2)
    assert not maps & {path for group in report.duplicates for path in group.paths}
    assert report.noise is not None
    assert not maps & set(report.noise.to_dict()["photos"])
    assert main(["doctor", str(tmp_path)]) == 0  # nobody says that there is depth
    said = capsys.readouterr()
    assert "8 are kept" in said.out + said.err


def test_quarantined_maps_are_left_out_by_readers_and_by_the_doctor(tmp_path: Path) -> None:
    broken(tmp_path)
    report = doctor(str(tmp_path), depth="depth", workers=2, quarantine=True)
    assert report.ok
    assert "2 damaged files are left out from now on" in report.render()
    data = DataConfig(train=(str(tmp_path),), layout="depth")
    kept = load_collection([str(tmp_path)], data, "depth", "train").items
    assert [item.path.name for item in kept] == ["0.jpg", "2.jpg", "3.jpg"]
    assert report_of(tmp_path).maps == 3
    assert report_of(tmp_path).errors == ()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry(tmp_path, room() * 1000)
    assert main(["doctor", str(tmp_path), "--depth", "depth", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["depth"]["maps"] == 1
    assert main(["doctor", str(tmp_path), "--depth", "detph"]) == 2
    assert "Did you mean depth?" in capsys.readouterr().err


@needs_shared
@pytest.mark.slow
def test_a_real_room_is_sound(tmp_path: Path) -> None:
    for i in range(0, 100, 10):
        for kind in ("color.jpg", "depth.png"):
            shutil.copy(SHARED / "scenes7" / f"frame-{i:06d}.{kind}", tmp_path)
    report = doctor(str(tmp_path), depth="scenes7", workers=2)
    assert report.depth is not None
    assert (report.depth.maps, report.depth.findings, report.ok) == (10, (), True)
    assert report.depth.valid > 0.7
    assert 0.5 < report.depth.low < report.depth.median < report.depth.high < 10


@needs_shared
def test_real_laser_points_are_sparse_and_sound(tmp_path: Path) -> None:
    drive = "2011_09_26_drive_0001_sync"
    for name in ("000000", "000001"):
        photo = tmp_path / f"2011_09_26/{drive}/image_02/data/0000{name}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHARED / "kitti" / "image_2" / f"{name}.png", photo)
        with Image.open(photo) as image:
            size = image.height, image.width
        points = read_velodyne(SHARED / "kitti" / "velodyne" / f"{name}.bin")
        depth = project(points, read_calibration(SHARED / "kitti" / "calib" / f"{name}.txt"), size)
        png(tmp_path / f"train/{drive}/proj_depth/groundtruth/image_02/0000{name}.png", depth / UNIT)
    report = doctor(str(tmp_path), depth="kitti", workers=2).depth
    assert report is not None
    assert (report.maps, report.findings) == (2, ())
    assert 0.03 < report.valid < 0.06
    assert report.neighbours < 0.2
    assert 45 < report.high < 85  # 99 % of the points are nearer
    found = load_collection([str(tmp_path)], DataConfig(train=(str(tmp_path),), layout="kitti"), "depth", "train")
    assert [(item.path.name, item.unit) for item in found.items] == [("0000000000.png", UNIT), ("0000000001.png", UNIT)]
