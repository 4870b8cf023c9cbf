from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pocketvit.data.collections import Collection, Item
from pocketvit.errors import UsageError
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.tasks.classify import ClassifyConfig
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.classify import Classifier, balanced_weights

CLASSIFY = TORCH_TASKS["classify"]
LEVELS = (
    LevelSpec(name="coarse", labels=["a", "b"]),
    LevelSpec(name="fine", labels=["x", "y", "z"], parents=[0, 0, 1]),
)


class Features(nn.Module):
    embed_dim = 4

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(2, 3)).repeat(1, 2)[:, :4]


def test_a_head_for_each_level_on_shared_features() -> None:
    model = CLASSIFY.build(Features(), ClassifyConfig(), LEVELS, Preprocess())
    assert isinstance(model, Classifier)
    coarse, fine = model(torch.rand(5, 3, 2, 2))
    assert coarse.shape == (5, 2)
    assert fine.shape == (5, 3)


def test_the_loss_is_the_weighted_mean_of_the_levels() -> None:
    torch.manual_seed(0)
    output = (torch.randn(4, 2), torch.randn(4, 3))
    target = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 2]])
    each = [F.cross_entropy(logits, target[:, k]).item() for k, logits in enumerate(output)]
    assert CLASSIFY.loss(output, target, ClassifyConfig(), None).item() == pytest.approx(sum(each) / 2)
    assert CLASSIFY.loss(output, target, ClassifyConfig(level_weights=(1.0, 3.0)), None).item() == pytest.approx(
        (each[0] + 3 * each[1]) / 4
    )
    smooth = [F.cross_entropy(logits, target[:, k], label_smoothing=0.2).item() for k, logits in enumerate(output)]
    assert CLASSIFY.loss(output, target, ClassifyConfig(label_smoothing=0.2), None).item() == pytest.approx(
        sum(smooth) / 2
    )


def test_balanced_weights_make_every_class_count_the_same() -> None:
    labels = [(0, 0)] * 6 + [(1, 2)] * 2
    coarse, fine = balanced_weights(labels, [2, 3])
    assert (6 * coarse[0]).item() == pytest.approx((2 * coarse[1]).item())
    assert fine[1].item() == 0
    assert ((6 * fine[0] + 2 * fine[2]) / 8).item() == pytest.approx(1.0)
    heavy = CLASSIFY.loss(
        (torch.zeros(8, 2), torch.zeros(8, 3)), torch.tensor(labels), ClassifyConfig(), [coarse, fine]
    )
    assert heavy.item() == pytest.approx((torch.log(torch.tensor(2.0)) + torch.log(torch.tensor(3.0))).item() / 2)


def test_distillation_is_hintons_and_zero_for_equal_answers() -> None:
    torch.manual_seed(0)
    own, teacher = (torch.randn(3, 4),), (torch.randn(3, 4),)
    t = 2.0
    p, q = F.softmax(teacher[0] / t, 1), F.log_softmax(own[0] / t, 1)
    assert CLASSIFY.distil(own, teacher, t).item() == pytest.approx(
        (p * (p.log() - q)).sum(1).mean().item() * t * t, rel=1e-4
    )
    assert CLASSIFY.distil(own, own, t).item() == pytest.approx(0.0, abs=1e-6)


def test_tiles_are_refused() -> None:
    with pytest.raises(UsageError, match="crop or stretch"):
        CLASSIFY.check(load_recipe(None, {"task.name": "classify", "preprocess.resize": "tile"}))


def test_the_state_is_what_the_loss_must_know_of_the_data() -> None:
    items = tuple(Item(Path(f"{i}.png"), None, (0, i % 2)) for i in range(4))
    data = Collection("c", "classify", "list", items, LEVELS, "train")
    assert CLASSIFY.state(ClassifyConfig(), data) is None
    coarse, fine = CLASSIFY.state(ClassifyConfig(class_weights="balanced"), data)
    assert coarse.tolist() == [1, 0]
    assert fine.tolist() == [1, 1, 0]


def test_a_weight_for_each_level() -> None:
    with pytest.raises(UsageError, match=r"task\.level_weights has 3 entries for 2 levels") as caught:
        CLASSIFY.build(Features(), ClassifyConfig(level_weights=(1, 1, 1)), LEVELS, Preprocess())
    assert "coarse, fine" in caught.value.todo


def test_the_graph_gives_probabilities_of_every_level() -> None:
    logits = (torch.randn(2, 2), torch.randn(2, 3))
    coarse, fine = CLASSIFY.graph_output(logits, Preprocess())
    assert torch.equal(coarse, F.softmax(logits[0], 1))
    assert fine.sum(1).tolist() == pytest.approx([1, 1])
