"""The doctor on masks: shares of the classes, what readers stumble over, quarantine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.cli import main
from pocketvit.data.collections import load_collection
from pocketvit.data.doctor import doctor
from pocketvit.data.mask_check import check_masks, mask_entries
from pocketvit.errors import DataError
from pocketvit.spec.mask_files import read_mask
from pocketvit.spec.recipe import DataConfig
from tests import segment_net
from tests.data.helpers import write


def test_classes_share_the_pixels(tmp_path: Path) -> None:
    root = segment_net.folder(tmp_path / "d", 4)
    masks = np.stack([segment_net.scene(i)[1] for i in range(4)])
    report = check_masks(*mask_entries([root])[:1])
    counts = np.bincount(masks.ravel(), minlength=256)
    assert report.masks == 4
    assert report.ignored == pytest.approx(counts[255] / masks.size)
    assert report.classes == pytest.approx(dict(zip(segment_net.LABELS, counts[:3] / counts[:3].sum(), strict=True)))
    assert report.faults == {}
    (root / "classes.txt").write_text("a\nb\nc\nnever\n")
    assert "1 classes have hardly a pixel: never" in "\n".join(check_masks(mask_entries([root])[0]).lines(8))
    (root / "classes.txt").unlink()
    assert list(check_masks(mask_entries([root])[0]).classes) == ["0", "1", "2"]


def test_masks_of_0_and_255_are_told(tmp_path: Path) -> None:
    root = segment_net.folder(tmp_path / "d", 3)
    assert "must be written" not in "\n".join(check_masks(mask_entries([root])[0]).lines(8))
    for file in (root / "masks").iterdir():
        Image.fromarray(255 * (read_mask(file) == 1).astype(np.uint8)).save(file)
    said = "\n".join(check_masks(mask_entries([root])[0]).lines(8))
    assert "no class but ground has a pixel, and 255 is no class: masks of 0 and 255 must be" in said


def test_parts_in_folders_are_found_and_other_folders_refused(tmp_path: Path) -> None:
    segment_net.folder(tmp_path / "all" / "train", 3)
    segment_net.folder(tmp_path / "all" / "val", 2, seed=10)
    rows, notes = mask_entries([tmp_path / "all"])
    assert (len(rows), notes) == (5, ())
    write(tmp_path / "none" / "a.jpg")
    with pytest.raises(DataError, match="no folders images/ and masks/"):
        doctor(str(tmp_path / "none"), masks=True)


def test_what_is_wrong_is_told_and_quarantined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = segment_net.folder(tmp_path / "d", 5)
    Image.fromarray(np.zeros((48, 60), np.uint8)).save(root / "masks" / "000.png")
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(root / "masks" / "001.png")
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(root / "masks" / "002.png")
    assert main(["doctor", str(root), "--masks", "--json"]) == 3
    faults = json.loads(capsys.readouterr().out)["masks"]["faults"]
    wanted = {"000": "60x48, but its photo 000.png is 64x48", "001": "holds class 9", "002": "colours"}
    assert {Path(path).stem: reason for path, reason in faults.items()}.keys() == wanted.keys()
    assert all(part in faults[str(root / "masks" / f"{name}.png")] for name, part in wanted.items())
    assert main(["doctor", str(root), "--masks"]) == 3
    assert "--masks --quarantine" in " ".join(capsys.readouterr().out.split())
    assert main(["doctor", str(root), "--masks", "--quarantine"]) == 0
    part = load_collection([str(root)], DataConfig(layout="masks"), "segment", "train")
    assert [item.path.stem for item in part.items] == ["003", "004"]
