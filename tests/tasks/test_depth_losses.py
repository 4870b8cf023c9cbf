from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pocketvit.tasks import depth_losses
from pocketvit.tasks.depth_losses import (
    align_scale_shift,
    berhu,
    chamfer,
    gradient_matching,
    l1,
    neighbour_share,
    reversed_huber,
    scale_and_shift,
    scale_shift_invariant,
    silog,
)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def median(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    return scale_shift_invariant(pred, truth, mask, "median")


def trimmed(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    return scale_shift_invariant(pred, truth, mask, "median", trim=0.2)


def least_squares(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    return scale_shift_invariant(pred, truth, mask, "least_squares")


def bins(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Chamfer with the first row of a map as centres."""
    return chamfer(pred[:, 0], truth, mask)


LOSSES: dict[str, Loss] = {
    "l1": l1,
    "silog": silog,
    "berhu": berhu,
    "median": median,
    "trimmed": trimmed,
    "least_squares": least_squares,
    "gradient_matching": gradient_matching,
    "chamfer": bins,
}
NAMES = list(LOSSES)


def maps(batch: int = 3, height: int = 9, width: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, ground truth and mask in float64; the last sample has a single valid pixel."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(batch, height, width, generator=generator, dtype=torch.float64) * 5 + 0.5
    pred = truth * (torch.randn(truth.shape, generator=generator, dtype=torch.float64) * 0.3).exp()
    mask = torch.rand(truth.shape, generator=generator) > 0.3
    mask[-1] = False
    mask[-1, 4, 5] = True
    return pred, truth, mask


def row(*values: float) -> Tensor:
    """One sample of one row."""
    return torch.tensor([[values]], dtype=torch.float64)


ALL = torch.ones(1, 1, 3, dtype=torch.bool)


def test_l1_by_hand() -> None:
    assert l1(row(1, 5, 9), row(2, 3, 0), row(1, 1, 0) > 0).item() == pytest.approx(1.5)


def test_silog_by_hand() -> None:
    ln2 = math.log(2)
    pred, truth = row(2, 4, 1), row(1, 2, 2)  # e = ln 2, ln 2, -ln 2
    expected = 10 * math.sqrt(ln2**2 - 0.85 * (ln2 / 3) ** 2)
    assert silog(pred, truth, ALL).item() == pytest.approx(expected)
    assert silog(pred, truth, ALL, lam=0).item() == pytest.approx(10 * ln2)
    assert silog(truth * 7, truth, ALL, lam=1).item() == pytest.approx(0, abs=1e-6)
    assert silog(truth * 7, truth, ALL, lam=0.5).item() == pytest.approx(10 * math.log(7) * math.sqrt(0.5))


def test_berhu_by_hand() -> None:
    # Errors 10, 1 and 3: c = 2, so (100 + 4) / 4, 1 and (9 + 4) / 4.
    assert berhu(row(11, 2, 4), row(1, 1, 1), ALL).item() == pytest.approx((26 + 1 + 3.25) / 3)
    assert berhu(row(1, 1, 1), row(1, 1, 1), ALL).item() == 0


def test_berhu_takes_its_limit_from_the_whole_batch() -> None:
    pred, truth = torch.cat([row(11, 2, 4), row(1, 2, 4)]), torch.ones(2, 1, 3, dtype=torch.float64)
    mask = ALL.expand(2, -1, -1)
    assert berhu(pred, truth, mask).item() == pytest.approx(((26 + 1 + 3.25) / 3 + (0 + 1 + 3.25) / 3) / 2)


def test_berhu_has_slope_one_and_then_d_over_c() -> None:
    pred = row(11, 2, 4).requires_grad_()
    berhu(pred, row(1, 1, 1), ALL).backward()
    assert (pred.grad.flatten() * 3).tolist() == pytest.approx([10 / 2, 1, 3 / 2])
    c = torch.tensor(2.0, dtype=torch.float64)
    d = torch.tensor([0.5, 1.999999, 2.000001, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: reversed_huber(x, c), d, eps=1e-7)


def test_ssi_by_least_squares_by_hand() -> None:
    # The line through (0, 0), (1, 0), (2, 3) is 1.5 x - 0.5, which misses by 0.5, -1 and 0.5.
    assert least_squares(row(0, 1, 2), row(0, 0, 3), ALL).item() == pytest.approx(0.5 * 1.5 / 3)
    scale, shift = scale_and_shift(row(0, 1, 2), row(0, 0, 3), ALL)
    assert (scale.item(), shift.item()) == pytest.approx((1.5, -0.5))


def test_ssi_by_median_by_hand() -> None:
    # Medians 1 and 0, mean distances 2/3 and 1: (-1.5, 0, 1.5) against (0, 0, 3).
    assert median(row(0, 1, 2), row(0, 0, 3), ALL).item() == pytest.approx(0.5 * (1.5 + 0 + 1.5) / 3)
    four = torch.ones(1, 1, 4, dtype=torch.bool)
    assert median(row(0, 1, 2, 7), row(0, 2, 4, 14), four).item() == pytest.approx(0, abs=1e-12)


def test_trimming_leaves_out_the_largest_and_keeps_the_divisor() -> None:
    five = torch.ones(1, 1, 5, dtype=torch.bool)
    pred, truth = row(-2, -1, 0, 1, 2), row(-1, -1, 0, 1, 9)
    # The ground truth has median 0 and mean distance 12/5, the prediction 6/5.
    differences = sorted(abs(p / 1.2 - t / 2.4) for p, t in zip((-2, -1, 0, 1, 2), (-1, -1, 0, 1, 9)))
    assert median(pred, truth, five).item() == pytest.approx(0.5 * sum(differences) / 5)
    assert trimmed(pred, truth, five).item() == pytest.approx(0.5 * sum(differences[:4]) / 5)


@pytest.mark.parametrize("name", ["median", "trimmed", "least_squares"])
@pytest.mark.parametrize(("scale", "shift"), [(3.7, 0.0), (1.0, -20.0), (0.01, 5.0)])
def test_ssi_does_not_see_scale_and_shift(name: str, scale: float, shift: float) -> None:
    pred, truth, mask = maps()
    loss = LOSSES[name]
    assert loss(scale * pred + shift, truth, mask).item() == pytest.approx(loss(pred, truth, mask).item(), rel=1e-9)
    assert loss(scale * truth + shift, truth, mask).item() == pytest.approx(0, abs=1e-12)


def test_ssi_by_median_does_not_see_the_scale_of_the_truth_either() -> None:
    pred, truth, mask = maps()
    assert median(pred, 5 * truth + 2, mask).item() == pytest.approx(median(pred, truth, mask).item(), rel=1e-9)


def test_ssi_of_a_constant_prediction_is_finite() -> None:
    _, truth, mask = maps()
    for loss in (median, least_squares):
        pred = torch.full_like(truth, 2.0).requires_grad_()
        loss(pred, truth, mask).backward()
        assert torch.isfinite(pred.grad).all()
    spread = truth[:1][mask[:1]].var(correction=0)
    assert least_squares(torch.ones_like(truth[:1]), truth[:1], mask[:1]).item() == pytest.approx(0.5 * spread.item())


def test_an_unknown_alignment_is_refused() -> None:
    with pytest.raises(ValueError, match="median or least_squares"):
        scale_shift_invariant(row(1, 2, 3), row(1, 2, 3), ALL, "mean")


def test_gradient_matching_by_hand() -> None:
    truth = torch.zeros(1, 2, 3, dtype=torch.float64)
    pred = torch.tensor([[[0.0, 1.0, 3.0], [0.0, 1.0, 5.0]]], dtype=torch.float64)
    mask = torch.ones(1, 2, 3, dtype=torch.bool)
    # Scale 1: across 1 + 2 + 1 + 4, down 0 + 0 + 2, six pixels. Scale 2: columns 0 and 2 of row 0, two pixels.
    assert gradient_matching(pred, truth, mask, scales=1).item() == pytest.approx(10 / 6)
    assert gradient_matching(pred, truth, mask, scales=2).item() == pytest.approx(10 / 6 + 3 / 2)
    mask[0, 0, 1] = False  # the pairs (0, 1), (1, 3) and the one below it go
    assert gradient_matching(pred, truth, mask, scales=1).item() == pytest.approx((1 + 4 + 0 + 2) / 5)


def test_gradient_matching_does_not_see_a_shift() -> None:
    pred, truth, mask = maps()
    shifted = gradient_matching(pred + 4, truth, mask).item()
    assert shifted == pytest.approx(gradient_matching(pred, truth, mask).item(), rel=1e-9)
    assert gradient_matching(truth + 4, truth, mask).item() == pytest.approx(0, abs=1e-12)


def test_neighbour_share_tells_dense_from_sparse() -> None:
    dense = torch.ones(2, 8, 8, dtype=torch.bool)
    sparse = torch.zeros(2, 8, 8, dtype=torch.bool)
    sparse[:, :, ::2] = True
    assert neighbour_share(dense) == 1
    assert neighbour_share(sparse) == neighbour_share(torch.zeros_like(dense)) == 0
    sparse[:, :, 1] = True
    assert neighbour_share(sparse) == pytest.approx(2 / 5)  # columns 0 and 1 of 0, 1, 2, 4, 6


def test_chamfer_by_hand() -> None:
    centres = torch.tensor([[1.0, 4.0]], dtype=torch.float64)
    truth, mask = row(1, 3, 6, 99), row(1, 1, 1, 0) > 0
    # Depths to bins: 0, 1, 4. Bins to depths: 0, 1.
    assert chamfer(centres, truth, mask).item() == pytest.approx(5 / 3 + 1 / 2)


def test_chamfer_compares_evenly_spaced_pixels() -> None:
    centres, truth = torch.zeros(1, 1, dtype=torch.float64), torch.arange(12.0, dtype=torch.float64).view(1, 3, 4)
    mask = torch.ones_like(truth, dtype=torch.bool)
    expected = (0 + 3**2 + 6**2 + 9**2) / 4  # pixels 0, 3, 6, 9
    assert chamfer(centres, truth, mask, most=4).item() == pytest.approx(expected)
    assert chamfer(centres, truth, mask, most=12).item() == pytest.approx(sum(x * x for x in range(12)) / 12)


def test_chamfer_of_a_large_map_needs_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    square = Tensor.square

    def counted(values: Tensor) -> Tensor:
        sizes.append(values.numel())
        return square(values)

    monkeypatch.setattr(Tensor, "square", counted)
    truth = torch.rand(2, 480, 640) + 0.5
    value = chamfer(torch.linspace(0.5, 1.5, 256).expand(2, -1), truth, truth > 0)
    assert max(sizes) == 256 * depth_losses.MOST_POINTS
    assert 0 < value.item() < 1e-4


def test_alignment_is_that_of_linear_algebra() -> None:
    pred, truth, mask = maps()
    aligned = align_scale_shift(pred, truth, mask)
    for i in range(2):
        table = torch.stack([pred[i][mask[i]], torch.ones(int(mask[i].sum()), dtype=torch.float64)], 1)
        line = torch.linalg.lstsq(table, truth[i][mask[i]][:, None]).solution
        assert aligned[i][mask[i]] == pytest.approx((table @ line).flatten())
    assert not aligned[~mask].any()


def test_alignment_in_32_bits_stands_a_large_shift() -> None:
    _, truth, mask = maps()
    truth = truth.float()
    aligned = align_scale_shift(truth * 2 + 1000, truth, mask)
    assert aligned[mask] == pytest.approx(truth[mask].numpy(), abs=1e-3)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "berhu"])
def test_gradients(name: str) -> None:
    pred, truth, mask = maps(height=5, width=6)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, truth, mask), pred.requires_grad_())


def test_the_gradient_of_berhu_is_that_with_its_limit_held() -> None:
    pred, truth, mask = maps(height=5, width=6)
    c = 0.2 * (pred - truth)[mask].abs().max()

    def held(x: Tensor) -> Tensor:
        return torch.stack([reversed_huber((p - t).abs()[m], c).mean() for p, t, m in zip(x, truth, mask)]).mean()

    one, two = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    assert torch.autograd.gradcheck(held, one)
    held(one).backward()
    berhu(two, truth, mask).backward()
    assert two.grad.flatten() == pytest.approx(one.grad.flatten())


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_mean_over_samples(name: str) -> None:
    """Each sample counts the same, however many valid pixels it has; and the empty one nothing."""
    pred, truth, mask = maps()
    empty = torch.zeros_like(mask[:1])
    alone = [LOSSES[name](pred[i : i + 1], truth[i : i + 1], mask[i : i + 1]).item() for i in range(3)]
    if name == "berhu":  # one limit for all: samples with the same error
        pred, truth, mask = (x[:1].repeat(3, 1, 1) for x in (pred, truth, mask))
        alone = alone[:1]
    joined = LOSSES[name](torch.cat([pred, pred[:1]]), torch.cat([truth, truth[:1]]), torch.cat([mask, empty]))
    assert joined.item() == pytest.approx(sum(alone) / len(alone), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hole", [0.0, math.nan, math.inf])
def test_invalid_pixels_change_neither_value_nor_gradient(name: str, hole: float) -> None:
    pred, truth, mask = maps()
    mask[:, 0] = True  # of which chamfer takes its centres
    mask[-1] = False
    one = pred.clone().requires_grad_()
    LOSSES[name](one, truth, mask).backward()
    two = torch.where(mask, pred, 123.0).requires_grad_()
    value = LOSSES[name](two, torch.where(mask, truth, hole), mask)
    value.backward()
    expected = LOSSES[name](pred, truth, mask).item()
    if name == "chamfer":  # all centres count, whether their pixels are valid or not
        two, value = one, LOSSES[name](pred, torch.where(mask, truth, hole), mask)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(one.grad, two.grad)
    assert torch.isfinite(two.grad).all()
    assert two.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_valid_pixels_is_zero_with_a_zero_gradient(name: str) -> None:
    pred, truth, mask = maps()
    pred = pred.requires_grad_()
    loss = LOSSES[name](pred, torch.full_like(truth, math.nan), torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(pred.grad, torch.zeros_like(pred))


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction_has_a_finite_gradient(name: str) -> None:
    _, truth, mask = maps()
    pred = truth.clone().requires_grad_()
    loss = LOSSES[name](pred, truth, mask)
    loss.backward()
    assert torch.isfinite(pred.grad).all()
    if name != "chamfer":
        assert loss.item() == pytest.approx(0, abs=1e-6)


def test_silog_of_a_prediction_of_zero_is_finite() -> None:
    pred = row(0, 1, 2).requires_grad_()
    loss = silog(pred, row(1, 1, 2), ALL)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_training_with_it_comes_near_the_truth(name: str) -> None:
    _, truth, mask = maps(batch=2)
    mask[-1] = mask[0]
    pred = torch.full_like(truth, 2.0)
    pred += torch.rand(pred.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pred = pred.requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=0.03)
    first = LOSSES[name](pred, truth, mask).item()
    for _ in range(200):
        optimizer.zero_grad()
        LOSSES[name](pred, truth, mask).backward()
        optimizer.step()
    assert LOSSES[name](pred, truth, mask).item() < 0.3 * first
