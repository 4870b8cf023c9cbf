from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError, UsageError
from pocketvit.spec import preprocess
from pocketvit.spec.preprocess import MAX_GROWTH, Preprocess, prepare, resize
from tests.bad_images import photo


@pytest.mark.parametrize("shape", [(96, 128), (301, 200), (30, 40), (224, 224), (1, 1), (3, 500)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_crop_has_the_size_and_is_deterministic(shape: tuple[int, int], interpolation: str) -> None:
    spec = Preprocess(size=(32, 48), interpolation=interpolation)
    made = prepare(photo(*shape), spec)
    assert made.shape == (32, 48, 3)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, prepare(photo(*shape), spec))


def test_stretch_is_pillows_resize() -> None:
    image = photo(50, 70)
    made = prepare(image, Preprocess(size=(20, 30), resize="stretch", interpolation="bilinear"))
    np.testing.assert_array_equal(made, np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR)))


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    made = prepare(stripes, Preprocess(size=(16, 16), resize="stretch", interpolation="bilinear"))
    assert abs(int(made.mean()) - 128) <= 2
    assert made.std() < 12


def test_whole_crop_of_an_image_of_the_right_size_changes_nothing() -> None:
    image = photo(32, 32)
    np.testing.assert_array_equal(prepare(image, Preprocess(size=(32, 32), crop_pct=1.0)), image)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(96, 128), (333, 500), (500, 333), (224, 300), (60, 60)])
@pytest.mark.parametrize("crop_pct", [0.9, 0.875, 1.0])
def test_crop_equals_timms_evaluation_transform(shape: tuple[int, int], crop_pct: float) -> None:
    create_transform = pytest.importorskip("timm.data").create_transform
    image = photo(*shape)
    transform = create_transform(
        input_size=(3, 64, 64),
        is_training=False,
        interpolation="bicubic",
        crop_pct=crop_pct,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    theirs = np.rint(transform(Image.fromarray(image)).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    np.testing.assert_array_equal(prepare(image, Preprocess(size=(64, 64), crop_pct=crop_pct)), theirs)


def test_resize_box_cuts_first() -> None:
    image = photo(40, 60)
    np.testing.assert_array_equal(resize(image, (20, 30), box=(10, 5, 40, 25)), image[5:25, 10:40])


FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


def resized_then_cut(image: np.ndarray, whole: tuple[int, int], spec: Preprocess) -> np.ndarray:
    top, left = (round((full - size) / 2) for full, size in zip(whole, spec.size, strict=True))
    return resize(image, whole, spec.interpolation)[top : top + spec.size[0], left : left + spec.size[1]]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("shape", "whole"), [((200, 300), (71, 106)), ((300, 200), (106, 71)), ((30, 41), (71, 97)), ((30, 400), (71, 946))]
)
def test_ordinary_pictures_are_resized_whole_to_the_bit(
    shape: tuple[int, int], whole: tuple[int, int], interpolation: str
) -> None:
    spec = Preprocess(size=(64, 64), interpolation=interpolation)
    np.testing.assert_array_equal(prepare(photo(*shape), spec), resized_then_cut(photo(*shape), whole, spec))


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("shape", "whole"), [((3, 900), (248, 74400)), ((1000, 3), (82666, 248))])
def test_thin_pictures_are_cut_first_and_look_the_same(
    shape: tuple[int, int], whole: tuple[int, int], interpolation: str
) -> None:
    spec = Preprocess(size=(224, 224), interpolation=interpolation)
    made = prepare(photo(*shape), spec).astype(int)
    assert np.abs(made - resized_then_cut(photo(*shape), whole, spec)).max() <= 1


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (1, 40_000_000), (300, 300), (1, 1)])
@pytest.mark.parametrize("crop_pct", [0.9, 0.05])
def test_what_is_resized_is_bounded_whatever_the_shape(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], crop_pct: float
) -> None:
    areas = []

    def watch(image: np.ndarray, size: tuple[int, int], *rest: object) -> np.ndarray:
        areas.append(max(math.prod(image.shape[:2]), math.prod(size)))
        assert areas[-1] <= MAX_GROWTH * 224 * 224  # before it is allocated
        return resize(image, size, *rest)

    monkeypatch.setattr(preprocess, "resize", watch)
    made = prepare(np.full((*shape, 3), 90, np.uint8), Preprocess(crop_pct=crop_pct))
    assert areas
    assert made.shape == (224, 224, 3)
    assert (made == 90).all()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"size": (0, 3)}, "size"),
        ({"crop_pct": 0.0}, "crop_pct"),
        ({"crop_pct": 1e-9}, "crop_pct"),
        ({"crop_pct": 1.5}, "crop_pct"),
        ({"crop_pct": 1e-300}, "crop_pct"),
        ({"size": (20_000, 3)}, "size"),
        ({"size": (8000, 8000)}, "size"),
        ({"resize": "tile", "overlap": 120}, "overlap"),
        ({"std": (1, 0, 1)}, "std"),
    ],
)
def test_impossible_values_are_named(fields: dict, names: str) -> None:
    with pytest.raises(UsageError, match=f"preprocess.{names}"):
        Preprocess(**fields)


def test_prepare_refuses_tiles_and_other_arrays() -> None:
    with pytest.raises(UsageError, match="tiled"):
        prepare(photo(40, 40), Preprocess(size=(32, 32), resize="tile"))
    for wrong in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ):
        with pytest.raises(DataError, match="expected"):
            prepare(wrong, Preprocess())


def test_digest_depends_on_every_field() -> None:
    digests = {
        Preprocess(**fields).digest()
        for fields in (
            {},
            {"mean": (0, 0, 0)},
            {"std": (1, 1, 1)},
            {"size": (32, 32)},
            {"color": "BGR"},
            {"crop_pct": 0.8},
        )
    }
    assert len(digests) == 6
    assert Preprocess().digest() == Preprocess().digest()


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1)])
def test_a_line_of_pixels_costs_little(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    resize_of_pillow = Image.Image.resize

    def spy(self: Image.Image, size: tuple[int, int], *args: object, **options: object) -> Image.Image:
        made.append(size[0] * size[1])
        return resize_of_pillow(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", spy)
    image = np.full((*shape, 3), 77, np.uint8)
    for spec in (Preprocess(), Preprocess(crop_pct=0.05), Preprocess(resize="stretch")):
        assert (prepare(image, spec) == 77).all()
    assert max(made) <= 32 * 224 * 224


def test_cutting_first_keeps_the_centre() -> None:
    ramp = np.tile(np.linspace(0, 255, 4000).astype(np.uint8)[None, :, None], (20, 1, 3))
    made = prepare(ramp, Preprocess(size=(32, 32)))
    assert abs(int(made.mean()) - 128) <= 1
