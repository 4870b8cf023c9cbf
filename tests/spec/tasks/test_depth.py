"""The device side of depth: what it refuses, its answers, its scores, what it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.depth_metrics import depth_errors, protocol
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.tasks import config_of
from pocketvit.spec.tasks.base import Wishes
from pocketvit.spec.tasks.depth import DEPTH, Depth, DepthConfig, DepthEvaluator

SPEC = Preprocess(size=(6, 8), resize="stretch")
PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)


@dataclass
class Case:
    truth: np.ndarray
    condition: str = ""
    image: np.ndarray = field(default_factory=lambda: PHOTO)


def ramp(low: float = 1.0, high: float = 4.0, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.linspace(low, high, size[0] * size[1], dtype=np.float32).reshape(size)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"min_depth": 5, "max_depth": 5}, r"task.min_depth 5 is not below task.max_depth 5"),
        ({"max_depth": 0}, "task.max_depth"),
        ({"silog_lambda": 1.5}, "task.silog_lambda"),
        ({"loss": "ssi"}, "task.loss ssi"),
        ({"loss": "silog", "kind": "relative"}, "task.loss silog"),
        ({"kind": "absolute"}, "task.kind"),
        ({"max_dept": 10}, "task.max_dept"),
    ],
)
def test_impossible_settings_are_named(wrong: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        config_of({"name": "depth", **wrong})


def test_outputs_say_which_depth_it_is() -> None:
    (metric,), (relative,) = (DEPTH.outputs((), SPEC, DepthConfig(kind=kind)) for kind in ("metric", "relative"))
    assert (metric.name, metric.shape, metric.dtype) == ("depth", [1, 6, 8], "float32")
    assert "metres" in metric.meaning
    assert (relative.name, relative.shape) == ("inverse_depth", [1, 6, 8])
    assert DEPTH.finish({"depth": ramp()[None]}, ()).metric
    assert not DEPTH.finish({"inverse_depth": ramp()[None]}, ()).metric


def test_photos_are_stretched() -> None:
    DEPTH.check_preprocess(SPEC)
    for resize in ("crop", "tile"):
        with pytest.raises(UsageError, match="stretch"):
            DEPTH.check_preprocess(Preprocess(resize=resize))


def test_the_answer_draws_says_its_range_and_keeps_its_values_in_other_sizes() -> None:
    answer = Depth(ramp())
    assert answer.draw(PHOTO).shape == (12, 16, 3)
    assert answer.colored().shape == (6, 8, 3)
    near, far = (int(x.sum()) for x in (answer.colored()[0, 0], answer.colored()[-1, -1]))
    assert near > far, "near is bright"
    summary = answer.to_dict()
    assert (summary["min"], summary["median"], summary["max"]) == pytest.approx((1, 2.5, 4))
    assert (summary["metric"], summary["unit"]) == (True, "m")
    assert answer.line == "1.00 to 4.00 m, median 2.50"
    assert answer.resized(12, 16).mean() == pytest.approx(2.5, abs=0.01)
    relative = Depth(ramp(0, 3), metric=False)
    assert int(relative.colored()[-1, -1].sum()) > int(relative.colored()[0, 0].sum()), "much inverse depth is near"
    assert relative.to_dict()["unit"] == "relative inverse depth"
    Depth(np.ones((6, 8), np.float32), metric=False).draw(PHOTO)  # no range at all


def test_scores_are_those_of_the_protocols_and_bear_their_names() -> None:
    truth, other = ramp(1, 4, (12, 16)), ramp(2, 3, (12, 16))
    truth[0, :5] = 0
    evaluator = DepthEvaluator("nyu+median")
    for each in (truth, other):
        for condition in ("plain", "nyu+median"):
            evaluator.update(Depth(ramp(1.1, 3.9)), each, condition)
    found = {measure.name: measure for measure in evaluator.metrics()}
    assert evaluator.main == "abs_rel@nyu+median"
    assert set(found) == {f"{x.name}@{c}" for x in DEPTH.metrics for c in ("plain", "nyu+median")}
    wanted = [depth_errors(ramp(1.1, 3.9), each, protocol("nyu+median"))["abs_rel"] for each in (truth, other)]
    assert found["abs_rel@nyu+median"].value == pytest.approx(np.mean(wanted))
    assert found["rmse@plain"].unit == "m"
    assert not DEPTH.metric("abs_rel@nyu+median").higher_is_better
    assert DEPTH.metric("delta1@plain").higher_is_better
    assert DEPTH.main((), "scenes7") == "abs_rel@scenes7"


def test_relative_depth_is_aligned_or_refused() -> None:
    truth = ramp(1, 4, (12, 16))
    exact = Depth((3 / truth + 0.7).astype(np.float32), metric=False)
    evaluator = DepthEvaluator("plain+least_squares")
    evaluator.update(exact, truth, "plain+least_squares")
    evaluator.update(exact, truth)  # goldens have no protocol
    assert [x.value for x in evaluator.metrics() if x.name.startswith("abs_rel")] == pytest.approx([0, 0], abs=1e-5)
    with pytest.raises(UsageError, match="protocol scenes7 compares metres"):
        evaluator.update(exact, truth, "scenes7")


def test_photos_without_a_valid_pixel_count_nothing_and_all_of_them_are_an_error() -> None:
    evaluator = DepthEvaluator("plain")
    evaluator.update(Depth(ramp()), np.zeros((6, 8), np.float32), "plain")
    with pytest.raises(DataError, match="no pixel of the ground truth counts in protocol plain"):
        list(evaluator.metrics())
    evaluator.update(Depth(ramp()), ramp(), "plain")
    assert {x.count for x in evaluator.metrics()} == {1}


def test_protocols_come_from_the_recipe_or_the_layout() -> None:
    assert DEPTH.conditions((), "scenes7") == ("scenes7",)
    assert DEPTH.conditions((), "depth") == ("plain",)
    assert DEPTH.conditions(("nyu", "nyu+median"), "depth") == ("nyu", "nyu+median")
    with pytest.raises(UsageError, match="nyuu") as caught:
        DEPTH.conditions(("nyuu",), "depth")
    assert "nyu" in caught.value.todo
    with pytest.raises(UsageError, match="no depth to score"):
        DEPTH.conditions((), "clean")


def test_the_answer_without_learning_is_the_one_depth_with_the_least_error() -> None:
    truths = (1, 2, 4, 5, 7)
    cases = [Case(np.full((6, 8), value, np.float32), "plain") for value in truths]
    errors = [np.mean([abs(one - truth) / truth for truth in truths]) for one in np.arange(0.5, 8, 0.25)]
    assert DEPTH.baseline(iter(cases), DepthEvaluator("plain")).value == pytest.approx(min(errors))


def test_truth_is_kept_small_at_the_models_size_and_checked() -> None:
    truth = ramp(0.5, 9, (12, 16))
    kept = DEPTH.golden.kept(truth, (6, 8))
    assert (kept.shape, kept.dtype) == ((6, 8), np.float16)
    assert np.abs(kept / truth[1::2, 1::2] - 1).max() < 5e-4
    inputs = np.zeros((1, 6, 8, 3), np.uint8)
    assert DEPTH.golden.fault(kept[None], inputs) == ""
    for wrong in (kept[None, :, :7], kept[None].astype(np.uint8), -kept[None]):
        assert "not metres" in DEPTH.golden.fault(wrong, inputs)
    assert DEPTH.truth(PHOTO, None, ()).shape == (12, 16)
    assert DEPTH.truth(PHOTO, None, ()).max() == 0


def test_change_is_a_share_of_the_depth() -> None:
    near, far = np.full((1, 6, 8), 2, np.float32), np.full((1, 6, 8), 20, np.float32)
    assert DEPTH.change([1.1 * near, 1.1 * far], [near, far]) == pytest.approx(0.1, abs=1e-6)


def test_panels_share_their_colours() -> None:
    truth = ramp(1, 4, (12, 16))
    (_, photo), (name, answer), (_, wanted) = DEPTH.panels(PHOTO, Depth(truth), truth, ())
    assert photo is PHOTO
    assert "m)" in name
    np.testing.assert_array_equal(answer, wanted)
    DEPTH.panels(PHOTO, Depth(ramp(), metric=False), np.zeros((12, 16), np.float32), ())  # nothing is known


def test_files_beside_the_picture(tmp_path: Path) -> None:
    config, answer = DepthConfig(), Depth(ramp())
    (suffix, write), *rest = DEPTH.extras(Wishes(), config).items()
    assert (suffix, rest) == (".depth.png", [])
    write(tmp_path / "a.png", answer, PHOTO)
    stored = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_allclose(stored / 1000, answer.resized(12, 16), atol=5.1e-4)
    extras = DEPTH.extras(Wishes(npy=True, ply=True, fov=90.0), config)
    assert list(extras) == [".depth.npy", ".ply"]
    extras[".depth.npy"](tmp_path / "a.npy", answer, PHOTO)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), answer.resized(12, 16))
    assert "65.535" in write(tmp_path / "b.png", Depth(ramp(1, 80)), PHOTO)
    assert list(DEPTH.extras(Wishes(), DepthConfig(kind="relative"))) == [".depth.npy"]


def test_points_have_the_places_that_the_camera_says(tmp_path: Path) -> None:
    points = {}
    for name, wishes in {"a": Wishes(ply=True, fov=90.0), "b": Wishes(ply=True, intrinsics=(8, 8, 7.5, 5.5))}.items():
        DEPTH.extras(wishes, DepthConfig())[".ply"](tmp_path / f"{name}.ply", Depth(np.full((6, 8), 2.0)), PHOTO)
        body = (tmp_path / f"{name}.ply").read_bytes().partition(b"end_header\n")[2]
        points[name] = np.frombuffer(body, np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)]))["xyz"].reshape(6, 8, 3)
    # 90 degrees over 8 values: x / z of the outermost centres is 7/8.
    np.testing.assert_allclose(points["a"][0, [0, -1], 0] / 2, [-7 / 8, 7 / 8], atol=1e-6)
    np.testing.assert_allclose(points["a"], points["b"], atol=1e-6)  # the same camera, in pixels of the photo
    assert (points["a"][..., 2] == 2).all()


@pytest.mark.parametrize(
    ("wishes", "kind", "named"),
    [
        (Wishes(ply=True), "relative", "ply needs metres"),
        (Wishes(fov=60.0), "metric", "fov is the camera"),
        (Wishes(intrinsics=(1, 1, 0, 0)), "metric", "intrinsics is the camera"),
        (Wishes(ply=True, fov=60.0, intrinsics=(1, 1, 0, 0)), "metric", "both"),
        (Wishes(ply=True, fov=190.0), "metric", "field of view"),
        (Wishes(ply=True, intrinsics=(0, 1, 0, 0)), "metric", "no camera"),
    ],
)
def test_wishes_that_cannot_be_fulfilled(wishes: Wishes, kind: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        DEPTH.extras(wishes, DepthConfig(kind=kind))


def test_relative_depth_has_no_points(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="metres"):
        Depth(ramp(), metric=False).to_ply(tmp_path / "a.ply", PHOTO)
