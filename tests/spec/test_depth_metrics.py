from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.depth_metrics import ERRORS, PROTOCOLS, Protocol, align, depth_errors, protocol, resize_map
from tests.data.helpers import SHARED, needs_shared

PLAIN = PROTOCOLS["plain"]


def maps(seed: int = 0, height: int = 24, width: int = 32) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A prediction and a ground truth of 0.5 to 12 m with holes."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 12, (height, width)).astype(np.float32)
    pred = (truth * np.exp(rng.normal(0, 0.3, truth.shape))).astype(np.float32)
    truth[rng.random(truth.shape) < 0.2] = 0
    return pred, truth


def reference(pred: NDArray[np.float32], truth: NDArray[np.float32], low: float, high: float) -> dict[str, float]:
    """The formulas, pixel by pixel, without NumPy's means."""
    pairs = []
    for p, d in zip(pred.flatten().tolist(), truth.flatten().tolist()):
        if low < d < high:
            pairs.append((min(max(p, low), high), d))
    n = len(pairs)
    e = [math.log(d) - math.log(p) for p, d in pairs]
    return {
        "abs_rel": sum(abs(d - p) / d for p, d in pairs) / n,
        "sq_rel": sum((d - p) ** 2 / d for p, d in pairs) / n,
        "rmse": math.sqrt(sum((d - p) ** 2 for p, d in pairs) / n),
        "rmse_log": math.sqrt(sum(x * x for x in e) / n),
        "log10": sum(abs(math.log10(d) - math.log10(p)) for p, d in pairs) / n,
        "silog": 100 * math.sqrt(sum(x * x for x in e) / n - (sum(e) / n) ** 2),
        **{f"delta{k}": sum(max(p / d, d / p) < 1.25**k for p, d in pairs) / n for k in (1, 2, 3)},
    }


def test_worked_out_by_hand() -> None:
    truth = np.array([[1.0, 2.0], [4.0, 0.0]], np.float32)
    pred = np.array([[2.0, 2.0], [2.0, 7.0]], np.float32)  # the last one has no ground truth
    found = depth_errors(pred, truth, PLAIN)
    ln2 = math.log(2)
    assert tuple(found) == ERRORS
    assert found["abs_rel"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["sq_rel"] == pytest.approx((1 + 0 + 1) / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(5 / 3))
    assert found["rmse_log"] == pytest.approx(ln2 * math.sqrt(2 / 3))
    assert found["log10"] == pytest.approx(2 * math.log10(2) / 3)
    assert found["silog"] == pytest.approx(100 * ln2 * math.sqrt(2 / 3))  # the mean of e is 0
    assert [found[f"delta{k}"] for k in (1, 2, 3)] == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_a_ratio_that_is_the_threshold_does_not_count() -> None:
    truth = np.array([[1.0, 1.0, 1.0, 1.0]], np.float32)
    found = depth_errors(np.array([[1.25, 1.2, 1.5, 1.75]], np.float32), truth, PLAIN)
    assert [found[f"delta{k}"] for k in (1, 2, 3)] == [0.25, 0.75, 1.0]


def test_a_perfect_prediction_has_no_error() -> None:
    _, truth = maps()
    found = depth_errors(truth, truth, PLAIN)
    assert [found[name] for name in ERRORS] == pytest.approx([0] * 6 + [1] * 3, abs=1e-9)


def test_silog_does_not_see_the_scale() -> None:
    pred, truth = maps()
    one, two = depth_errors(pred, truth, PLAIN), depth_errors(pred * 3, truth, PLAIN)
    assert two["silog"] == pytest.approx(one["silog"], rel=1e-5)
    assert two["rmse_log"] > one["rmse_log"] + 0.5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["plain", "scenes7"])
def test_equal_to_the_formulas_pixel_by_pixel(seed: int, name: str) -> None:
    pred, truth = maps(seed)
    pred[:3] *= -1  # raised to the least depth
    chosen = PROTOCOLS[name]
    assert depth_errors(pred, truth, chosen) == pytest.approx(reference(pred, truth, chosen.low, chosen.high))


def test_equal_to_torchmetrics() -> None:
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.functional")
    pred, truth = maps(5)
    found = depth_errors(pred, truth, PLAIN)
    p, d = (torch.from_numpy(x[truth > 0].astype(np.float64)) for x in (pred, truth))
    assert found["abs_rel"] == pytest.approx(metrics.mean_absolute_percentage_error(p, d).item(), rel=1e-9)
    assert found["rmse"] == pytest.approx(metrics.mean_squared_error(p, d, squared=False).item(), rel=1e-9)
    logs = metrics.mean_squared_error(p.log(), d.log(), squared=False)
    assert found["rmse_log"] == pytest.approx(logs.item(), rel=1e-9)
    assert found["log10"] == pytest.approx(metrics.mean_absolute_error(p.log10(), d.log10()).item(), rel=1e-9)


@pytest.mark.parametrize("size", [(375, 1242), (370, 1224), (374, 1238), (376, 1241), (370, 1226), (352, 1216)])
@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("kitti-garg", (0.40810811, 0.99189189, 0.03594771, 0.96405229)),
        ("kitti-eigen", (0.3324324, 0.91351351, 0.0359477, 0.96405229)),
    ],
)
def test_kitti_crops_are_cut_as_published(size: tuple[int, int], name: str, shares: tuple[float, ...]) -> None:
    """The published code makes an array of the four products and has NumPy turn it into whole numbers."""
    height, width = size
    theirs = np.array([shares[0] * height, shares[1] * height, shares[2] * width, shares[3] * width]).astype(np.int32)
    assert PROTOCOLS[name].bounds(*size) == tuple(theirs.tolist())


def test_known_bounds() -> None:
    assert PROTOCOLS["kitti-garg"].bounds(375, 1242) == (153, 371, 44, 1197)
    assert PROTOCOLS["kitti-eigen"].bounds(375, 1242) == (124, 342, 44, 1197)
    assert PROTOCOLS["nyu"].bounds(480, 640) == (45, 471, 41, 601)
    assert PROTOCOLS["nyu"].bounds(240, 320) == (22, 235, 20, 300)
    assert PROTOCOLS["nyu"].bounds(960, 1280) == (90, 942, 82, 1202)
    assert PROTOCOLS["scenes7"].bounds(480, 640) == (0, 480, 0, 640)


def test_the_crop_and_the_range_choose_the_pixels() -> None:
    truth = np.full((480, 640), 5.0, np.float32)
    assert PROTOCOLS["nyu"].valid(truth).sum() == (471 - 45) * (601 - 41)
    inside = np.argwhere(PROTOCOLS["nyu"].valid(truth))
    assert (inside.min(0).tolist(), inside.max(0).tolist()) == ([45, 41], [470, 600])
    truth[100, 100:106] = (10.0, 9.99, 1e-3, 2e-3, np.nan, -1)
    assert PROTOCOLS["nyu"].valid(truth)[100, 100:106].tolist() == [False, True, False, True, False, False]


def test_what_lies_outside_the_crop_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 60, (375, 1242)).astype(np.float32)
    pred = truth * np.float32(1.1)
    before = depth_errors(pred, truth, PROTOCOLS["kitti-garg"])
    pred[:153], pred[371:], pred[:, :44], pred[:, 1197:] = 70, 70, 70, 70
    assert depth_errors(pred, truth, PROTOCOLS["kitti-garg"]) == before
    pred[153, 44] = 70
    assert depth_errors(pred, truth, PROTOCOLS["kitti-garg"])["abs_rel"] > before["abs_rel"]


def test_predictions_are_clipped_after_the_alignment() -> None:
    truth = np.array([[2.0, 2.0, 2.0, 9.0]], np.float32)
    pred = np.array([[1.0, 1.0, 1.0, 40.0]], np.float32)  # median scaling makes it 2, 2, 2, 80
    assert depth_errors(pred, truth, protocol("scenes7+median"))["abs_rel"] == pytest.approx(1 / 9 / 4)
    assert depth_errors(pred, truth, protocol("scenes7"))["rmse"] == pytest.approx(1.0)  # and here 40 becomes 10


@pytest.mark.parametrize("inverse", [False, True])
def test_least_squares_takes_back_any_scale_and_shift(inverse: bool) -> None:
    _, truth = maps(2)
    target = 1 / np.where(truth > 0, truth, 1) if inverse else truth
    pred = (target - 0.7) / 3.3
    aligned = align(pred, truth, truth > 0, "least_squares", inverse)
    assert aligned[truth > 0] == pytest.approx(truth[truth > 0], rel=1e-4)
    found = depth_errors(pred, truth, protocol("plain+least_squares"), inverse)
    assert found["abs_rel"] == pytest.approx(0, abs=1e-4)


def test_least_squares_is_that_of_numpy() -> None:
    pred, truth = maps(3)
    mask = truth > 0
    table = np.stack([pred[mask], np.ones(mask.sum())], 1).astype(np.float64)
    (scale, shift), *_ = np.linalg.lstsq(table, truth[mask].astype(np.float64))
    assert align(pred, truth, mask, "least_squares") == pytest.approx(scale * pred.astype(np.float64) + shift)


def test_median_scaling_by_hand() -> None:
    truth = np.array([[2.0, 4.0, 6.0]])
    pred = np.array([[1.0, 1.0, 5.0]])
    mask = np.ones((1, 3), bool)
    assert align(pred, truth, mask, "median").tolist() == [[4.0, 4.0, 20.0]]
    # In inverse depth: medians 1 and 1/4, so 1 stands for 1/4.
    assert align(pred, truth, mask, "median", inverse=True)[0] == pytest.approx([4, 4, 0.8])


def test_inverse_depth_that_is_not_positive_is_far_away() -> None:
    truth = np.array([[1.0, 2.0, 4.0]], np.float32)
    found = align(np.array([[1.0, 0.0, -2.0]]), truth, np.ones((1, 3), bool), "none", inverse=True)
    assert found.tolist() == [[1.0, math.inf, math.inf]]
    errors = depth_errors(np.array([[1.0, 0.5, -2.0]], np.float32), truth, PROTOCOLS["scenes7"], inverse=True)
    assert errors["rmse"] == pytest.approx(6 / math.sqrt(3))  # the last is 10 instead of 4


def test_a_constant_prediction_becomes_the_mean() -> None:
    truth = np.array([[1.0, 2.0, 6.0]])
    found = align(np.full((1, 3), 5.0), truth, np.ones((1, 3), bool), "least_squares")
    assert found.tolist() == [[3.0, 3.0, 3.0]]


def test_a_median_that_is_not_positive_is_refused() -> None:
    with pytest.raises(DataError, match="no scale brings it"):
        depth_errors(np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32), protocol("plain+median"))


def test_no_valid_pixel_is_no_error_and_no_number() -> None:
    pred, truth = maps()
    assert depth_errors(pred, np.zeros_like(truth), PLAIN) == {}
    outside = np.zeros((480, 640), np.float32)
    outside[:45] = 3.0
    assert depth_errors(pred, outside, PROTOCOLS["nyu"]) == {}
    assert depth_errors(pred, np.full_like(truth, 11), PROTOCOLS["scenes7"]) == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_no_numbers_are_refused(value: float) -> None:
    pred, truth = maps()
    pred[3, 4] = value
    with pytest.raises(DataError, match=r"NaN or infinity \(1 of 768 pixels\)"):
        depth_errors(pred, truth, PLAIN)


@pytest.mark.parametrize("shape", [(4, 4, 1), (0, 4), (4,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"a prediction of shape .* is no depth map"):
        depth_errors(np.ones(shape, np.float32), np.ones((4, 4), np.float32), PLAIN)
    with pytest.raises(DataError, match=r"a ground truth of shape .* is no depth map"):
        depth_errors(np.ones((4, 4), np.float32), np.ones(shape, np.float32), PLAIN)


@pytest.mark.parametrize("size", [(48, 64), (50, 33), (24, 32), (25, 31)])
def test_resizing_is_that_of_torch(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    pred, _ = maps()
    tensor = torch.from_numpy(pred)[None, None]
    theirs = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=True)
    found = resize_map(pred, size)
    assert (found.dtype, found.shape) == (np.float32, size)
    assert found == pytest.approx(theirs[0, 0].numpy(), rel=1e-4)


def test_a_smaller_prediction_is_resized_before_it_is_scored() -> None:
    truth = np.full((40, 60), 3.0, np.float32)
    assert depth_errors(np.full((10, 15), 3.0), truth, PLAIN)["rmse"] == pytest.approx(0, abs=1e-6)
    steps = np.repeat(np.arange(1, 5, dtype=np.float32)[None], 2, 0)
    assert resize_map(steps, (2, 8))[0].tolist() == [1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]


def test_protocols_are_read() -> None:
    assert protocol("nyu") == PROTOCOLS["nyu"]
    assert protocol("nyu+median") == Protocol("nyu", 1e-3, 10.0, PROTOCOLS["nyu"].crop, "median")
    for name in PROTOCOLS:
        assert protocol(name).text == name
        assert protocol(f"{name}+least_squares").text == f"{name}+least_squares"
    assert protocol("plain+none").text == "plain"


@pytest.mark.parametrize(
    ("text", "what", "todo"),
    [
        ("nyuu", "no depth protocol 'nyuu'", "Did you mean nyu?"),
        ("kitti-grag", "no depth protocol", "Did you mean kitti-garg?"),
        ("xyz", "no depth protocol", "There are: plain, scenes7, nyu, kitti-garg, kitti-eigen."),
        ("nyu+mediam", "no alignment 'mediam'", "Did you mean nyu+median?"),
        ("nyu+", "no alignment ''", "There are: none, median, least_squares."),
        ("", "no depth protocol ''", "There are: plain, scenes7, nyu, kitti-garg, kitti-eigen."),
    ],
)
def test_unknown_protocols_propose_the_nearest(text: str, what: str, todo: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        protocol(text)
    assert caught.value.todo == todo


def test_an_unknown_alignment_is_refused() -> None:
    with pytest.raises(UsageError, match="no alignment 'mean'"):
        align(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1), bool), "mean")


@needs_shared
def test_two_frames_of_a_room_are_alike_and_not_equal() -> None:
    names = ("frame-000000.depth.png", "frame-000002.depth.png")
    first, second = (np.asarray(Image.open(SHARED / "scenes7" / name)).astype(np.float32) / 1000 for name in names)
    first[first > 65], second[second > 65] = 0, 0
    found = depth_errors(first, second, PROTOCOLS["scenes7"])
    assert 0.5 < found["delta1"] < 1
    aligned = depth_errors(first, second, protocol("scenes7+least_squares"))
    assert aligned["rmse"] < found["rmse"]
