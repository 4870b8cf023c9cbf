"""Photos with masks: where readers find them and their classes, and how photo and mask become one sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.cli import main
from pocketvit.data.begin import first_recipe
from pocketvit.data.cases import eval_cases
from pocketvit.data.collections import load_collection, load_splits
from pocketvit.data.crops import training_sample
from pocketvit.data.decode import read_item
from pocketvit.data.doctor import doctor
from pocketvit.data.layouts import READERS
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig
from tests import segment_net
from tests.data.helpers import write

SPEC = Preprocess(size=(24, 32), resize="stretch", interpolation="nearest")
MASKS = DataConfig(layout="masks")


def load(root: Path, levels: tuple[LevelSpec, ...] = (), **data: str):
    return load_collection([str(root)], replace(MASKS, **data), "segment", "train", levels)


def test_photos_and_masks_of_one_name_are_a_sample(tmp_path: Path) -> None:
    root = segment_net.folder(tmp_path / "d", 3)
    write(root / "images" / "deep" / "more.jpg")
    segment_net.palette_png(root / "masks" / "deep" / "more.png", np.zeros((40, 56), np.uint8))
    write(root / "images" / "alone.jpg")
    segment_net.palette_png(root / "masks" / "spare.png", np.zeros((4, 4), np.uint8))
    rows, notes = READERS["masks"](root, "train")
    assert [row.path.relative_to(root / "images").as_posix() for row in rows] == [
        "000.png", "001.png", "002.png", "deep/more.jpg"
    ]  # fmt: skip
    assert {row.classes for row in rows} == {segment_net.LABELS}
    assert ["alone.jpg" in notes[0], "spare.png" in notes[1], len(notes)] == [True, True, 2]
    part = load(root)
    assert part.levels == (LevelSpec(name="label", labels=list(segment_net.LABELS)),)
    assert part.counts() == {}
    photo, mask = read_item(part, part.items[1])
    np.testing.assert_array_equal(photo, segment_net.scene(1)[0])
    np.testing.assert_array_equal(mask, segment_net.scene(1)[1])
    case = next(iter(eval_cases(part, MASKS)))
    assert (case.truth.dtype, case.condition) == (np.uint8, "")


def test_the_folders_of_pascal_voc_are_known(tmp_path: Path) -> None:
    root = segment_net.folder(tmp_path, 2)
    (root / "images").rename(root / "JPEGImages")
    (root / "masks").rename(root / "SegmentationClass")
    write(root / "JPEGImages" / "unlabelled.jpg")
    assert [item.path.stem for item in load(root).items] == ["000", "001"]


def test_the_list_of_classes_may_lie_one_folder_above_or_in_the_recipe(tmp_path: Path) -> None:
    root = segment_net.folder(tmp_path / "all" / "train", 2, names=False)
    with pytest.raises(DataError, match=r"there is no classes\.txt that names the classes") as caught:
        load(root)
    assert "data.class_names" in caught.value.todo
    (tmp_path / "all" / "classes.txt").write_text("a\nb\nc\n\n")
    assert load(root).levels[0].labels == ["a", "b", "c"]
    table = tmp_path / "names.csv"
    table.write_text("name,id\nx,0\nz,2\ny,1\n")
    assert load(root, class_names=str(table)).levels[0].labels == ["x", "y", "z"]
    for text, named in {"x,0\ny,2\n": "ids are not 0 to 1", "x,0,k,0\ny,1,k,0\n": "one level"}.items():
        table.write_text(text)
        with pytest.raises(DataError, match=named):
            load(root, class_names=str(table))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a\n\nb\n", "line 2: is empty"),
        ("a\nb\na\n", "class 'a' stands twice"),
        ("a\n", "names 1 class"),
        ("a\0b\nc\n", r"line 1: the class 'a\\x00b' holds characters"),
        ("a\x0cb\nc\n", r"line 1: the class 'a\\x0cb' holds characters"),
        ("\n".join(f"c{k}" for k in range(256)), "names 256 classes"),
    ],
)
def test_lists_of_classes_that_are_none(tmp_path: Path, text: str, named: str) -> None:
    root = segment_net.folder(tmp_path, 2, names=False)
    (root / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=rf"classes\.txt.*{named}"):
        load(root)


def test_classes_of_all_parts_and_of_a_model_must_be_the_same(tmp_path: Path) -> None:
    train, val = segment_net.folder(tmp_path / "a", 3), segment_net.folder(tmp_path / "b", 2, seed=50)
    data = replace(MASKS, train=(str(train),), val=(str(val),))
    assert load_splits(data, "segment").val.levels[0].labels == list(segment_net.LABELS)
    (val / "classes.txt").unlink()
    assert load_splits(data, "segment").val.levels[0].labels == list(segment_net.LABELS)
    for text, named in {"ground\nball\nfloor\n": "the class 'floor'", "ball\nground\nwall\n": "another order"}.items():
        (val / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=named):
            load_splits(data, "segment")
    with pytest.raises(DataError, match="are not those of"):
        load_collection([str(train), str(val)], MASKS, "segment", "train")


def test_what_is_wrong_with_a_mask_is_said_with_its_name(tmp_path: Path) -> None:
    root = segment_net.folder(tmp_path, 2)
    file = root / "masks" / "001.png"
    part = load(root)
    photo, mask = segment_net.scene(1)
    wrong = {
        "64x48, but its mask": mask[:, :60],
        r"holds class 3 \(.* beyond 2\), of 3 classes": np.where(mask == 1, np.uint8(3), mask),
        r"colours \(3 channels\)": photo,
    }
    for named, pixels in wrong.items():
        Image.fromarray(pixels).save(file)
        with pytest.raises(DataError, match=named) as caught:
            read_item(part, part.items[1])
        assert str(file) in caught.value.what


def test_the_way_out_looks_at_masks_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = segment_net.folder(tmp_path, 3)
    Image.fromarray(segment_net.scene(1)[0]).save(root / "masks" / "001.png")
    part = load(root)
    with pytest.raises(DataError, match="holds colours") as caught:
        read_item(part, part.items[1])
    said, _, command = caught.value.todo.partition(" Leave damaged files out with: pocketvit ")
    assert said.startswith("A mask is an 8-bit PNG")
    assert main(command.split()) == 0
    assert [item.path.stem for item in load(root).items] == ["000", "002"]


def test_a_photo_that_exif_turns_has_a_mask_as_it_is_shown(tmp_path: Path) -> None:
    root, exif = segment_net.folder(tmp_path, 2), Image.Exif()
    exif[0x0112] = 6
    (photo, mask), file = segment_net.scene(1), root / "masks" / "001.png"
    Image.fromarray(photo).save(root / "images" / "001.png", exif=exif)
    part = load(root)
    Image.fromarray(mask).save(file)
    with pytest.raises(DataError, match="48x64, but its mask") as caught:
        read_item(part, part.items[1])
    assert "EXIF" in caught.value.todo
    for stored, options in ((np.rot90(mask, -1), {}), (mask, {"exif": exif})):
        Image.fromarray(stored).save(file, **options)
        image, truth = read_item(part, part.items[1])
        np.testing.assert_array_equal(truth, np.rot90(mask, -1))
        np.testing.assert_array_equal(image, np.rot90(photo, -1))


def test_folders_without_masks_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.jpg")
    with pytest.raises(DataError, match="no folders images/ and masks/"):
        load(tmp_path / "a")
    write(tmp_path / "b" / "images" / "1.jpg")
    (tmp_path / "b" / "masks").mkdir()
    with pytest.raises(DataError, match=r"no photo has a mask: there is no .*masks/1\.png"):
        load(tmp_path / "b")
    with pytest.raises(UsageError, match=r"data\.layout depth does not go with task\.name segment"):
        load_collection([str(tmp_path / "a")], DataConfig(layout="depth"), "segment", "train")


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_photo_and_mask_are_cut_and_flipped_together_and_classes_are_never_mixed(tmp_path: Path, augment: str) -> None:
    root = tmp_path / "d"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    mask = np.random.default_rng(0).integers(0, 3, (60, 80)).astype(np.uint8)
    mask[:5] = 255
    Image.fromarray(mask).save(root / "masks" / "a.png")
    Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(root / "images" / "a.png")
    (root / "classes.txt").write_text("a\nb\nc\n")
    train = TrainConfig(augment=augment, crop_scale=(0.3, 0.6), jitter=0.0)
    seen = set()
    for epoch in range(8):
        image, truth = training_sample(load(root), MASKS, SPEC, train, epoch, 0)
        assert (truth.dtype, truth.shape) == (np.uint8, (24, 32))
        assert set(np.unique(truth)) <= {0, 1, 2, 255}
        assert (image[..., 0] == truth).mean() > 0.9, "nearest in both"
        seen.add(truth.tobytes())
    assert len(seen) == {"none": 1, "flip": 2}.get(augment, len(seen))


def test_a_folder_of_masks_is_recognised(tmp_path: Path) -> None:
    segment_net.folder(tmp_path / "shapes" / "train", 4)
    segment_net.folder(tmp_path / "shapes" / "val", 2, seed=9)
    document, notes = first_recipe(tmp_path / "shapes", {})
    assert (document["data"]["layout"], document["task"]["name"]) == ("masks", "segment")
    assert "4 photos with masks" in notes[0]
    assert document["data"]["val"] == [str(tmp_path / "shapes" / "val")]
    for file in (tmp_path / "shapes" / "train" / "masks").iterdir():
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(file)
    document, _ = first_recipe(tmp_path / "shapes", {})
    assert document["task"]["name"] != "segment"


def test_the_doctor_reads_photos_and_masks(tmp_path: Path) -> None:
    root = segment_net.folder(tmp_path, 4)
    assert doctor(str(root)).ok
    (root / "masks" / "001.png").write_bytes(b"no picture")
    assert "001.png" in next(iter(doctor(str(root)).damaged))
