"""The torch side of segmentation: networks that give classes, losses over known pixels, distillation, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pocketvit.data.collections import load_collection
from pocketvit.errors import UsageError
from pocketvit.models import build
from pocketvit.models.build import load_weights
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, load_recipe
from pocketvit.spec.tasks.segment import SegmentConfig
from pocketvit.tasks.segment import SEGMENT, dice
from tests import segment_net

SPEC = Preprocess(size=(32, 32), resize="stretch")
LEVELS = (LevelSpec(name="label", labels=["a", "b", "c"]),)
SMALL = {
    "pocketdepth_xs": {"hooks": (0,), "widths": (8, 8, 8, 8), "embed_dim": 16, "num_heads": 2, "decoder": (1, 1, 1, 1)},
    "dpt_tiny": {"width": 16, "reassemble": [8, 8, 8, 8], "backbone_options": {"embed_dim": 16, "num_heads": 2}},
}
LOGITS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def truth() -> torch.Tensor:
    found = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    found[:, :3] = 255
    return found


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("stride", [2, 5])
def test_networks_for_depth_give_classes(name: str, stride: int) -> None:
    torch.manual_seed(0)
    backbone = build(name, (32, 32), SMALL[name])
    depth = backbone.state_dict()
    net = SEGMENT.build(backbone, SegmentConfig(stride=stride), LEVELS, SPEC).eval()
    with torch.inference_mode():
        logits = net(torch.rand(1, 3, 32, 32))
    side = -(-32 // stride)
    assert logits.shape == (1, 3, side, side)
    probs = SEGMENT.graph_output(logits, SPEC)
    torch.testing.assert_close(probs.sum(1), torch.ones(1, side, side))
    named = net.backbone.state_dict()
    assert all(key in named for key in depth if not key.startswith("head.")), "names are those of depth"


@pytest.mark.parametrize("name", SMALL)
def test_weights_of_a_depth_network_are_a_start(name: str, tmp_path: Path) -> None:
    depth = build(name, (32, 32), SMALL[name])
    save_file(depth.state_dict(), tmp_path / "d.safetensors")
    backbone = build(name, (32, 32), SMALL[name])
    backbone.give_classes(3)
    last = {key: value.clone() for key, value in backbone.state_dict().items() if key.startswith(backbone.renewed)}
    assert last
    load_weights(backbone, str(tmp_path / "d.safetensors"))
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, last.get(key, depth.state_dict().get(key)), msg=key)
    save_file({f"backbone.{k}": v for k, v in backbone.state_dict().items()}, tmp_path / "s.safetensors")
    other = build(name, (32, 32), SMALL[name])
    other.give_classes(3)
    load_weights(other, str(tmp_path / "s.safetensors"), original=build(name, (32, 32), SMALL[name]))
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, backbone.state_dict()[key], msg=key)


def test_networks_of_bins_give_no_classes() -> None:
    options = {"backbone": "timm:resnet10t", "decoder_width": 16, "width": 8, "num_bins": 4, "queries": 2}
    with pytest.raises(UsageError, match="AdaBins gives depth alone"):
        SEGMENT.build(build("adabins_small", (64, 64), options), SegmentConfig(), LEVELS, SPEC)


def test_the_loss_is_cross_entropy_over_known_pixels() -> None:
    large = F.interpolate(LOGITS, size=(16, 16), mode="bilinear", align_corners=False)
    wanted = F.cross_entropy(large, truth(), ignore_index=255)
    torch.testing.assert_close(SEGMENT.loss(LOGITS, truth(), SegmentConfig(), None), wanted)
    weights = torch.tensor([0.5, 2.0, 0.0])
    wanted = F.cross_entropy(large, truth(), weights, ignore_index=255)
    torch.testing.assert_close(SEGMENT.loss(LOGITS, truth(), SegmentConfig(), weights), wanted)
    plain = SEGMENT.loss(LOGITS, truth(), SegmentConfig(), None)
    more = SEGMENT.loss(LOGITS, truth(), SegmentConfig(dice_weight=0.5), None)
    torch.testing.assert_close(more - plain, 0.5 * dice(large, truth()))


def test_dice_is_the_overlap_of_probabilities_and_truth() -> None:
    target = truth()
    known = target != 255
    probs, losses = LOGITS.repeat_interleave(2, 2).repeat_interleave(2, 3).softmax(1), []
    for k in range(3):
        p, g = probs[:, k][known], (target[known] == k).float()
        losses.append(1 - 2 * (p * g).sum() / (p.sum() + g.sum()))
    large = LOGITS.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(dice(large, target), torch.stack(losses).mean())
    target[target == 1] = 0
    torch.testing.assert_close(dice(1e3 * F.one_hot(target % 255, 3).movedim(-1, 1).float(), target), torch.tensor(0.0))


def test_nothing_known_is_no_loss_and_no_nan() -> None:
    logits, target = LOGITS.clone().requires_grad_(), torch.full((2, 16, 16), 255)
    for weights in (None, torch.ones(3)):
        found = SEGMENT.loss(logits, target, SegmentConfig(dice_weight=1.0), weights)
        found.backward()
        assert found == 0
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_distillation_is_least_where_both_agree_and_takes_teachers_of_other_sizes() -> None:
    assert float(SEGMENT.distil(LOGITS, LOGITS, 2.0)) == pytest.approx(0, abs=1e-6)
    teacher = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    small = F.interpolate(teacher, size=(8, 8), mode="bilinear", align_corners=False)
    p, q = (x / 2 for x in (LOGITS, small))
    wanted = 4 * (q.softmax(1) * (q.log_softmax(1) - p.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(SEGMENT.distil(LOGITS, teacher, 2.0), wanted)
    assert SEGMENT.distil_hard is not None
    torch.testing.assert_close(SEGMENT.distil_hard(LOGITS, teacher), F.cross_entropy(LOGITS, small.argmax(1)))


@pytest.mark.parametrize(
    ("sections", "named"),
    [({"preprocess": {"resize": "crop"}}, "stretch"), ({"train": {"augment": "randaugment"}}, "randaugment")],
)
def test_recipes_that_cannot_be_trained(sections: dict[str, Any], named: str) -> None:
    document: dict[str, Any] = {
        "data": {"train": ["d"], "layout": "masks"},
        "task": {"name": "segment"},
        "preprocess": {"size": [32, 32], "resize": "stretch"},
    }
    SEGMENT.check(load_recipe(None, document))
    with pytest.raises(UsageError, match=named):
        SEGMENT.check(load_recipe(None, document | sections))


def test_weights_of_classes_are_inverse_to_their_pixels(tmp_path: Path) -> None:
    root = segment_net.folder(tmp_path, 6)
    part = load_collection([str(root)], DataConfig(layout="masks"), "segment", "train")
    assert SEGMENT.state(SegmentConfig(), part) is None
    weights = SEGMENT.state(SegmentConfig(class_weights="balanced"), part)
    masks = torch.cat([torch.from_numpy(segment_net.scene(i)[1]).flatten() for i in range(6)])
    shares = torch.bincount(masks, minlength=256)[:3] / (masks != 255).sum()
    torch.testing.assert_close(weights, 1 / shares / 3)
    with (root / "classes.txt").open("a") as file:
        file.write("nowhere\n")
    part = load_collection([str(root)], DataConfig(layout="masks"), "segment", "train")
    assert SEGMENT.state(SegmentConfig(class_weights="balanced"), part).tolist()[3] == 0
