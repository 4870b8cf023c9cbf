from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.data.kitti import Calibration, project, read_calibration, read_velodyne
from pocketvit.errors import DataError
from tests.data.helpers import SHARED, needs_shared

KITTI = SHARED / "kitti"


def test_projection_by_hand() -> None:
    """The laser's x, y, z are ahead, left, up; the camera's right, down, ahead; focal length 10, centre (4, 3)."""
    turn = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
    p2 = np.array([[10.0, 0, 4, 0], [0, 10, 3, 0], [0, 0, 1, 0]])
    calibration = Calibration(p2, np.eye(3), turn)
    points = np.array(
        [
            [10.0, 0, 0, 0.5],  # straight ahead: (4, 3)
            [5.0, 0, 0, 0.5],  # nearer, the same pixel
            [7.0, 0, 0, 0.5],
            [10.0, 2, 0, 0],  # 2 m to the left: u = 4 - 2
            [20.0, 0, 4, 0],  # 4 m up: v = 3 - 2
            [10.0, 0.4, 0, 0],  # u = 3.6, nearest pixel 4
            [-10.0, 0, 0, 0],  # behind
            [10.0, 9, 0, 0],  # left of the image
            [0.0, 1, 1, 0],  # in the plane of the camera
        ],
        np.float32,
    )
    expected = np.zeros((6, 8), np.float32)
    expected[3, 4], expected[3, 2], expected[1, 4] = 5, 10, 20
    found = project(points, calibration, (6, 8))
    assert found.dtype == np.float32
    assert found.tolist() == expected.tolist()
    assert project(points[::-1, :3], calibration, (6, 8)).tolist() == expected.tolist()
    assert not project(points[:0], calibration, (6, 8)).any()


def test_every_matrix_counts() -> None:
    """P2's last column and the rectification, against the formula in homogeneous coordinates."""
    rng = np.random.default_rng(0)
    p2 = np.array([[70.0, 0, 60, 4], [0, 70, 18, -0.3], [0, 0, 1, 0.005]])
    rectify = np.linalg.qr(rng.normal(size=(3, 3)) * 0.01 + np.eye(3))[0]
    rectify *= np.sign(np.diag(rectify))
    move = np.array([[0.0, -1, 0, -0.02], [0, 0, -1, -0.06], [1, 0, 0, -0.33]])
    points = np.concatenate([rng.uniform((5, -5, -2), (40, 5, 1), (300, 3)), np.zeros((300, 1))], 1)
    found = project(points.astype(np.float32), Calibration(p2, rectify, move), (37, 122))
    r, t = np.eye(4), np.eye(4)
    r[:3, :3], t[:3] = rectify, move
    expected = np.zeros((37, 122))
    for x, y, z, _ in points:
        u, v, w = p2 @ r @ t @ np.array([x, y, z, 1])
        column, row = round(u / w), round(v / w)
        if 0 <= row < 37 and 0 <= column < 122 and (expected[row, column] == 0 or w < expected[row, column]):
            expected[row, column] = w
    assert (expected > 0).sum() > 100
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (2, 4, 4)])
def test_points_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="cannot be projected"):
        project(np.zeros(shape), Calibration(np.zeros((3, 4)), np.eye(3), np.zeros((3, 4))), (4, 4))


@needs_shared
@pytest.mark.parametrize("name", ["000000", "000001"])
def test_real_scans_land_in_their_images(name: str) -> None:
    points = read_velodyne(KITTI / "velodyne" / f"{name}.bin")
    calibration = read_calibration(KITTI / "calib" / f"{name}.txt")
    assert (points.shape[1], points.dtype) == (4, np.float32)
    assert len(points) > 100_000
    with Image.open(KITTI / "image_2" / f"{name}.png") as image:
        size = image.height, image.width
    found = project(points, calibration, size)
    valid = found > 0
    assert found.shape == size
    assert 0.03 < valid.mean() < 0.06
    assert 3 < found[valid].min() < 6
    assert 60 < found[valid].max() < 85
    assert not valid[:100].any()  # the laser does not look up that far
    assert (valid.any(0).sum() / size[1]) > 0.95  # from the left edge to the right one
    near_rows = [np.median(found[row][found[row] > 0]) for row in (size[0] - 20, 250, 200)]
    assert near_rows == sorted(near_rows)  # the road comes nearer towards the bottom


def objects() -> list[tuple[str, list[float]]]:
    """Frame and numbers of each labelled object: 2-D box, size, place, turn."""
    found = []
    for file in sorted((KITTI / "label_2").glob("*.txt")) if SHARED.is_dir() else []:
        for words in map(str.split, file.read_text().splitlines()):
            if words[0] != "DontCare":
                found.append((f"{file.stem} {words[0]}", [float(word) for word in words[4:15]]))
    return found


@needs_shared
@pytest.mark.parametrize(("name", "label"), objects(), ids=lambda value: value if isinstance(value, str) else "")
def test_objects_have_the_depth_that_their_labels_state(name: str, label: list[float]) -> None:
    """The laser sees the side that faces the camera: the label's z less half of the object's extent ahead."""
    left, top, right, bottom, _, width, length, _, _, z, turn = label
    frame = name.split()[0]
    points = read_velodyne(KITTI / "velodyne" / f"{frame}.bin")
    found = project(points, read_calibration(KITTI / "calib" / f"{frame}.txt"), (375, 1242))
    inside = found[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
    face = z - length / 2 * abs(np.sin(turn)) - width / 2 * abs(np.cos(turn))
    assert np.percentile(inside[inside > 0], 25) == pytest.approx(face, abs=1.0)  # behind it there is background


def test_scans_are_read_as_they_are(tmp_path: Path) -> None:
    points = np.arange(12, dtype="<f4").reshape(3, 4)
    (tmp_path / "a.bin").write_bytes(points.tobytes())
    assert read_velodyne(tmp_path / "a.bin").tolist() == points.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are no whole number of points"),
        (bytes(15), "15 bytes are no whole"),
        (bytes(17), "17 bytes are no whole"),
        (np.full(4, np.nan, "<f4").tobytes(), "NaN or infinity"),
    ],
)
def test_damaged_scans_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_velodyne(tmp_path / "a.bin")


def test_scans_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.bin: cannot be read"):
        read_velodyne(tmp_path / "no.bin")
    with pytest.raises(DataError, match="is no scan"):
        read_velodyne(tmp_path)


GOOD = {"P2": " 1" * 12, "R0_rect": " 2.5e-1" * 9, "Tr_velo_to_cam": " -3" * 12}


def calibration_file(path: Path, **changes: str | None) -> Path:
    rows = {"P0": " 9" * 12, **GOOD, **changes}
    path.write_text("".join(f"{name}:{text}\n" for name, text in rows.items() if text is not None) + "\n")
    return path


def test_calibrations_are_read(tmp_path: Path) -> None:
    found = read_calibration(calibration_file(tmp_path / "c.txt", Tr_imu_to_velo=" odd"))
    assert (found.p2.shape, found.r0_rect.shape, found.tr_velo_to_cam.shape) == ((3, 4), (3, 3), (3, 4))
    assert (found.p2 == 1).all()
    assert (found.r0_rect == 0.25).all()
    assert (found.tr_velo_to_cam == -3).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"P2": None}, "P2 is missing"),
        ({"R0_rect": " 1" * 8}, "R0_rect is no matrix of 9 numbers"),
        ({"Tr_velo_to_cam": " x" * 12}, "Tr_velo_to_cam is no matrix of 12 numbers"),
        ({"P2": " nan" * 12}, "P2 is no matrix"),
        ({"P2 ": " 1" * 12}, "given once"),
    ],
)
def test_damaged_calibrations_are_refused(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_calibration(calibration_file(tmp_path / "c.txt", **changes))
    assert "R0_rect: (9 numbers)" in caught.value.todo


def test_calibrations_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no text file"):
        read_calibration(tmp_path / "c.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_calibration(tmp_path / "d.txt")
