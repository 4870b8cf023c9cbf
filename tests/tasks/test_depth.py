"""The torch side of depth: what a score means, where training begins, what is compared, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pocketvit.data.collections import load_collection
from pocketvit.errors import UsageError
from pocketvit.models import build
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, Recipe, load_recipe
from pocketvit.spec.tasks.depth import DepthConfig
from pocketvit.tasks import depth_losses
from pocketvit.tasks.depth import DEPTH, Answer
from tests import depth_net
from tests.data.helpers import write

SPEC = Preprocess(size=(24, 32), resize="stretch")
IMAGE = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def model(**settings: Any) -> Any:
    torch.manual_seed(0)
    return DEPTH.build(depth_net.TinyDepth(), DepthConfig(**settings), (), SPEC).eval()


def recipe(**sections: Any) -> Recipe:
    document = {
        "data": {"train": ["d"], "layout": "depth"},
        "task": {"name": "depth"},
        "preprocess": {"size": [24, 32], "resize": "stretch"},
    }
    return load_recipe(None, {key: document.get(key, {}) | sections.get(key, {}) for key in {*document, *sections}})


def test_the_score_becomes_metres_within_the_range() -> None:
    net = model(min_depth=0.5, max_depth=8.0)
    score, answer = net.backbone(IMAGE), net(IMAGE)
    assert answer.metric
    torch.testing.assert_close(answer.depth, 0.5 + 7.5 / (1 + torch.exp(-score)))
    low, high = net(IMAGE * 1e4).depth.aminmax()
    assert low >= 0.5
    assert high <= 8.0


def test_the_score_becomes_inverse_depth_that_is_not_negative() -> None:
    net = model(kind="relative")
    torch.testing.assert_close(net(IMAGE).depth, F.relu(net.backbone(IMAGE)))
    assert not net(IMAGE).metric
    assert (net(IMAGE).depth > 0).float().mean() > 0.9, "no unit begins dead"


def test_training_begins_at_a_quarter_of_the_range() -> None:
    for high in (10.0, 80.0):
        assert float(model(max_depth=high)(IMAGE).depth.median()) == pytest.approx(high / 4, rel=0.3)
    odd = model(min_depth=5.0, max_depth=6.0)(IMAGE).depth
    assert 5 <= odd.min() <= odd.max() <= 6


def test_the_graph_gives_the_models_size_bilinearly() -> None:
    answer = model()(IMAGE)
    assert answer.depth.shape == (2, 1, 12, 16)
    depth = DEPTH.graph_output(answer, SPEC)
    assert depth.shape == (2, 24, 32)
    want = F.interpolate(answer.depth, size=(24, 32), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(depth, want)


def truths() -> torch.Tensor:
    truth = torch.rand(2, 24, 32, generator=torch.Generator().manual_seed(1)) * 12
    truth[:, :2] = 0
    return truth


def test_losses_see_what_is_known_and_within_reach() -> None:
    answer, truth, config = model()(IMAGE), truths(), DepthConfig()
    pred, mask = DEPTH.graph_output(answer, SPEC), (truth >= 0.001) & (truth <= 10)
    want = {
        "auto": depth_losses.silog(pred, truth, mask, 0.85),
        "silog": depth_losses.silog(pred, truth, mask, 0.85),
        "berhu": depth_losses.berhu(pred, truth, mask),
        "l1": depth_losses.l1(pred, truth, mask),
    }
    for name, value in want.items():
        torch.testing.assert_close(DEPTH.loss(answer, truth, replace(config, loss=name), None), value)
    sharp = DEPTH.loss(answer, truth, replace(config, gradient_weight=2.0), None)
    torch.testing.assert_close(sharp, want["silog"] + 2 * depth_losses.gradient_matching(pred, truth, mask))
    changed = truth.clone()
    changed[truth > 10] = 500.0
    torch.testing.assert_close(DEPTH.loss(answer, changed, config, None), want["silog"])


def test_relative_depth_is_compared_after_scale_and_shift() -> None:
    truth, config = truths() + 0.5, DepthConfig(kind="relative")
    exact = Answer(3 / truth[:, None] + 2, False)
    assert float(DEPTH.loss(exact, truth, config, None)) == pytest.approx(0, abs=1e-5)
    assert float(DEPTH.loss(exact, truth, replace(config, gradient_weight=1.0), None)) == pytest.approx(0, abs=1e-4)
    assert DEPTH.loss(Answer(truth[:, None], False), truth, config, None) > 0.3


def test_bins_draw_near_the_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, truth = DEPTH.build(depth_net.TinyBins(), DepthConfig(), (), SPEC), truths()
    answer = net(IMAGE)
    assert answer.centres.shape == (2, 8)
    plain, more = (
        DEPTH.loss(answer, truth, DepthConfig(chamfer_weight=weight, max_depth=20), None) for weight in (0.0, 0.5)
    )
    want = depth_losses.chamfer(answer.centres, truth, truth >= 0.001)
    torch.testing.assert_close(more - plain, 0.5 * want)
    with pytest.raises(UsageError, match="adaptive bins"):
        DEPTH.build(depth_net.TinyBins(), DepthConfig(kind="relative"), (), SPEC)


def test_nothing_known_is_no_loss_and_no_nan() -> None:
    for kind in ("metric", "relative"):
        net = model(kind=kind)
        loss = DEPTH.loss(net(IMAGE), torch.zeros(2, 24, 32), DepthConfig(kind=kind, gradient_weight=1.0), None)
        loss.backward()
        assert loss == 0
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_distillation_takes_metres_as_they_are_and_relative_depth_aligned() -> None:
    depth = truths()[:, None] + 0.5
    student, far = Answer(depth, True), Answer(1.5 * depth, True)
    assert float(DEPTH.distil(student, student, 1.0)) == pytest.approx(0, abs=1e-5)
    assert DEPTH.distil(student, far, 1.0) > 1, "scale counts"
    relative = Answer(7 / depth + 1, False)
    for pair in ((student, relative), (relative, far), (relative, Answer(2 / depth + 3, False))):
        assert float(DEPTH.distil(*pair, 1.0)) == pytest.approx(0, abs=1e-4)
    assert DEPTH.distil(Answer(depth.flip(3), True), relative, 1.0) > 0.1
    small = Answer(F.interpolate(depth, size=(12, 16)), True)
    assert math.isfinite(float(DEPTH.distil(small, student, 1.0))), "a teacher may answer in another size"


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"preprocess": {"resize": "crop"}}, "stretch"),
        ({"data": {"layout": "clean"}}, "no depth to score"),
        ({"data": {"layout": "clean", "val": ["v"], "val_layout": "depth"}}, "no train.teacher"),
        ({"task": {"kind": "relative"}}, r"plain\+least_squares"),
        ({"data": {"protocol": ["nyu"]}, "task": {"kind": "relative"}}, r"nyu\+least_squares"),
        ({"data": {"protocol": ["kittigarg"]}}, "kitti-garg"),
        ({"train": {"augment": "randaugment"}}, "randaugment"),
    ],
)
def test_recipes_that_cannot_be_trained(sections: dict, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        DEPTH.check(recipe(**sections))
    assert np.any([named.replace("\\", "") in text for text in (caught.value.what, caught.value.todo)])


def test_recipes_that_can_be_trained() -> None:
    DEPTH.check(recipe())
    DEPTH.check(recipe(data={"protocol": ["nyu+median"]}, task={"kind": "relative"}))
    clean = {"layout": "clean", "val": ["v"], "val_layout": "scenes7"}
    DEPTH.check(recipe(data=clean, train={"teacher": "runs/teacher"}))


def test_slopes_are_refused_where_depth_is_sparse(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    depth = np.zeros((40, 56), np.float32)
    depth[::3, ::4] = 5.0
    np.save(tmp_path / "a.npy", depth)
    sparse = load_collection([str(tmp_path)], DataConfig(layout="depth"), "depth", "train")
    DEPTH.state(DepthConfig(), sparse)
    with pytest.raises(UsageError, match="needs dense depth: here 0 %") as caught:
        DEPTH.state(DepthConfig(gradient_weight=0.5), sparse)
    assert "LiDAR has no neighbours" in caught.value.todo
    dense = load_collection([str(depth_net.folder(tmp_path / "d", 2))], DataConfig(layout="depth"), "depth", "train")
    DEPTH.state(DepthConfig(gradient_weight=0.5), dense)


def test_a_head_for_classes_is_refused() -> None:
    backbone = build(
        "dpt_tiny", (32, 32), {"head": "segmentation", "classes": 4, "width": 16, "reassemble": [8, 8, 8, 8]}
    )
    with pytest.raises(UsageError, match="segmentation gives no depth"):
        DEPTH.build(backbone, DepthConfig(), (), SPEC)


def test_bins_divide_the_range_of_the_task() -> None:
    options = {"backbone": "timm:resnet10t", "decoder_width": 16, "width": 8, "num_bins": 4, "queries": 2}
    backbone = build("adabins_small", (64, 64), options)
    net = DEPTH.build(backbone, DepthConfig(min_depth=2.0, max_depth=3.0), (), SPEC).eval()
    with torch.inference_mode():
        answer = net(torch.rand(1, 3, 64, 64))
    assert answer.centres is not None
    assert 2 < float(answer.centres.min()) < float(answer.centres.max()) < 3
    assert 2 < float(answer.depth.min()) <= float(answer.depth.max()) < 3
