from pathlib import Path

import numpy as np
import pytest
import torch

from pocketvit.errors import UsageError
from pocketvit.models import build
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.tasks.restore import RestoreConfig
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.restore import LOSSES, PixelDecoder, loss
from tests.models.test_backbone import check_files, one_batch, trained_as

RESTORE = TORCH_TASKS["restore"]


def test_losses_are_their_formulas() -> None:
    d = torch.tensor([[[[0.1, -0.3]]], [[[0.0, 0.2]]]])
    assert LOSSES["l1"](d, 0.255).item() == pytest.approx(0.15)
    assert LOSSES["mse"](d, 0.255).item() == pytest.approx((0.01 + 0.09 + 0.04) / 4)
    assert LOSSES["charbonnier"](d, 0.255).item() == pytest.approx(np.mean(np.sqrt(d.numpy() ** 2 + 1e-6)), rel=1e-5)
    assert LOSSES["log_mse"](d, 0.255).item() == pytest.approx(
        (np.log(0.05 + 1e-6) + np.log(0.02 + 1e-6)) / 2, rel=1e-5
    )
    floor = (51 / 255) ** 2
    bold = RestoreConfig(loss="log_mse", loss_floor=51)
    assert loss(d, torch.zeros_like(d), bold).item() == pytest.approx(
        (np.log(0.05 + floor) + np.log(0.02 + floor)) / 2, rel=1e-5
    )


def test_log_mse_weighs_noise_levels_alike() -> None:
    weak, strong = torch.full((1, 3, 4, 4), 0.01, requires_grad=True), torch.full((1, 3, 4, 4), 0.1, requires_grad=True)
    LOSSES["log_mse"](weak, 0.255).backward()
    LOSSES["log_mse"](strong, 0.255).backward()
    # The gradient of log MSE is proportional to 1 / error: a relative change counts the same at every level.
    ratio = (weak.grad * weak).sum() / (strong.grad * strong).sum()
    assert ratio.item() == pytest.approx(1.0, abs=0.02)


def test_targets_are_pixels_in_zero_to_one() -> None:
    pixels = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    target = RESTORE.targets(pixels)
    assert target.shape == (1, 3, 1, 1)
    assert target.flatten().tolist() == pytest.approx([0, 128 / 255, 1])


def test_loss_uses_the_settings() -> None:
    output, target = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    assert RESTORE.loss(output, target, RestoreConfig(loss="mse"), None).item() == pytest.approx(0.25)
    assert RESTORE.loss(output, target, RestoreConfig(loss="l1"), None).item() == pytest.approx(0.5)


def test_preprocessing_that_resizes_or_shifts_is_refused() -> None:
    with pytest.raises(UsageError, match="restore needs"):
        RESTORE.check(load_recipe(None, {"task.name": "restore"}))
    fields = {"resize": "tile", "mean": [0, 0, 0], "std": [1, 1, 1]}
    RESTORE.check(load_recipe(None, {"task.name": "restore", "preprocess": fields}))


def test_the_graph_gives_rgb_pixels_channels_last() -> None:
    image = torch.tensor([-0.1, 0.5, 1.2]).view(1, 3, 1, 1)
    assert RESTORE.graph_output(image, Preprocess()).tolist() == [[[[0, 127.5, 255]]]]
    assert RESTORE.graph_output(image, Preprocess(color="BGR")).tolist() == [[[[255, 127.5, 0]]]]


VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("timm:vit_tiny_patch16_224", "token"),
        ("timm:vit_tiny_patch16_224", "global"),
        ("vit_micro_patch16_224", "token"),
    ],
)
def test_a_network_of_features_learns_to_restore_and_is_exported(name: str, decoder: str, tmp_path: Path) -> None:
    model = trained_as({"name": "restore", "decoder": decoder}, name, VIT, (32, 48))
    losses = one_batch(model, 2)
    assert losses[2] < losses[0]
    check_files(model, tmp_path)


def test_every_place_of_every_feature_is_decoded_to_its_own_pixels() -> None:
    torch.manual_seed(0)
    for name, options, size in (("timm:resnet10t", {}, (72, 100)), ("vit_micro_patch16_224", VIT, (32, 48))):
        net = PixelDecoder(build(name, size, options), "token", size).eval()
        image = torch.rand(1, 3, *size)
        with torch.inference_mode():
            assert torch.equal(net(image), image)  # before it has learned anything
            for decode, stride in zip(net.decoders, net.strides, strict=True):
                decode[1].bias += torch.arange(3.0).repeat_interleave(stride**2)  # as a colour: R, G, B planes
            added = net(image) - image
        expected = torch.arange(3.0).view(1, 3, 1, 1).expand_as(image) * len(net.strides)
        torch.testing.assert_close(added, expected)


def test_a_change_of_one_token_changes_its_own_pixels_alone() -> None:
    net = PixelDecoder(build("vit_micro_patch16_224", (32, 48), VIT), "token", (32, 48)).eval()
    torch.nn.init.normal_(net.decoders[0][1].weight)
    tokens, image = torch.randn(1, 24, 48), torch.zeros(1, 3, 32, 48)
    changed = tokens.clone()
    changed[0, 8] += torch.randn(48)  # row 1, column 2 of 4 x 6
    net.backbone.features = lambda _: [tokens]
    before = net(image)
    net.backbone.features = lambda _: [changed]
    rows, columns = torch.nonzero((net(image) - before)[0].abs().sum(0), as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 16, 23)


def test_decoders_on_timms_base_vit_have_the_golden_numbers_of_parameters() -> None:
    with torch.device("meta"):
        base = build("timm:vit_base_patch16_224", (224, 224))
        counts = {
            decoder: sum(p.numel() for p in PixelDecoder(base, decoder, (224, 224)).parameters())
            for decoder in ("global", "token")
        }
    assert counts == {"global": 201_556_224, "token": 86_390_784}
