import numpy as np
import pytest
import torch

from pocketvit.errors import UsageError
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.tasks.restore import RestoreConfig
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.restore import LOSSES

RESTORE = TORCH_TASKS["restore"]


def test_losses_are_their_formulas() -> None:
    d = torch.tensor([[[[0.1, -0.3]]], [[[0.0, 0.2]]]])
    assert LOSSES["l1"](d).item() == pytest.approx(0.15)
    assert LOSSES["mse"](d).item() == pytest.approx((0.01 + 0.09 + 0.04) / 4)
    assert LOSSES["charbonnier"](d).item() == pytest.approx(np.mean(np.sqrt(d.numpy() ** 2 + 1e-6)), rel=1e-5)
    assert LOSSES["log_mse"](d).item() == pytest.approx((np.log(0.05 + 1e-6) + np.log(0.02 + 1e-6)) / 2, rel=1e-5)


def test_log_mse_weighs_noise_levels_alike() -> None:
    weak, strong = torch.full((1, 3, 4, 4), 0.01, requires_grad=True), torch.full((1, 3, 4, 4), 0.1, requires_grad=True)
    LOSSES["log_mse"](weak).backward()
    LOSSES["log_mse"](strong).backward()
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
