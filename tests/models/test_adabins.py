"""The equations with numbers worked out by hand, the layers against the library's, the size against the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pocketvit.errors import UsageError
from pocketvit.models import build
from pocketvit.models.adabins import (
    EPSILON,
    AdaBins,
    PostNormBlock,
    UpBlock,
    bin_centres,
    bin_widths,
    expected_depth,
    range_attention,
)
from tests.models.depth_nets import ADABINS, check_files

SIZE = (32, 48)


def small(size: tuple[int, int] = SIZE, **options: Any) -> Any:
    torch.manual_seed(0)
    return build("adabins_small", size, ADABINS | options).eval()


def test_widths_are_shares_with_an_epsilon() -> None:
    raw = torch.tensor([[1.0, 0.0, 3.0, 0.0]])
    whole = 4.0 + 4 * EPSILON
    wanted = torch.tensor([[1.001, 0.001, 3.001, 0.001]]) / whole
    torch.testing.assert_close(bin_widths(raw), wanted)
    assert float(bin_widths(raw).sum()) == pytest.approx(1)
    torch.testing.assert_close(bin_widths(torch.zeros(1, 4)), torch.full((1, 4), 0.25))


def test_centres_lie_in_the_middle_of_their_bins() -> None:
    widths = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    # Edges on 2..10 m: 2, 6, 8, 9, 10.
    torch.testing.assert_close(bin_centres(widths, 2.0, 10.0), torch.tensor([[4.0, 7.0, 8.5, 9.5]]))


def test_centres_are_those_of_the_edges_however_many_there_are() -> None:
    torch.manual_seed(0)
    widths = bin_widths(torch.rand(3, 256))
    edges = 1e-3 + (10 - 1e-3) * torch.cat([torch.zeros(3, 1), widths], 1).cumsum(1)
    torch.testing.assert_close(bin_centres(widths, 1e-3, 10.0), (edges[:, 1:] + edges[:, :-1]) / 2)
    assert (edges[:, -1] - 10).abs().max() < 1e-4


def test_range_attention_is_a_product_at_every_place() -> None:
    places = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]]])  # two channels, one row, two columns
    queries = torch.tensor([[[3.0, 5.0], [1.0, 1.0], [0.0, 2.0]]])
    wanted = torch.tensor([[[[3.0, 1.0]], [[1.0, 1.0]], [[0.0, -2.0]]]])
    torch.testing.assert_close(range_attention(places, queries), wanted)


def test_depth_is_the_mean_of_the_centres_under_the_softmax() -> None:
    centres = torch.tensor([[1.0, 3.0]])
    even, sure = [0.0, 0.0], [0.0, float(torch.tensor(3.0).log())]  # weights 1/2 1/2 and 1/4 3/4
    scores = torch.tensor([even, sure]).T.reshape(1, 2, 1, 2)
    torch.testing.assert_close(expected_depth(scores, centres), torch.tensor([[[[2.0, 2.5]]]]))


def test_a_layer_is_the_librarys_transformer_layer() -> None:
    torch.manual_seed(0)
    own, other = PostNormBlock(16, 4, 32, 0.0).eval(), nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
    parts = {"attn.qkv.": "self_attn.in_proj_", "attn.proj.": "self_attn.out_proj.", "fc1.": "linear1."}
    parts |= {"fc2.": "linear2.", "norm1.": "norm1.", "norm2.": "norm2."}
    theirs = other.state_dict()
    own.load_state_dict({ours + k: theirs[name + k] for ours, name in parts.items() for k in ("weight", "bias")})
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(own(x), other.train()(x))
    assert len(theirs) == 2 * len(parts)


def test_the_decoder_joins_the_finer_map() -> None:
    up = UpBlock(8 + 3, 4).eval()
    with torch.inference_mode():
        assert up(torch.rand(1, 8, 3, 4), torch.rand(1, 3, 5, 8)).shape == (1, 4, 5, 8)


def test_depth_stays_in_its_range_and_the_centres_rise() -> None:
    model = small(min_depth=0.5, max_depth=8.0)
    with torch.inference_mode():
        depth, centres = model(torch.rand(2, 3, *SIZE))
    assert model.bins
    assert depth.shape == (2, 1, 16, 24)
    assert centres.shape == (2, 8)
    assert (centres[:, 1:] > centres[:, :-1]).all()
    assert 0.5 <= float(centres.min()) <= float(depth.min()) <= float(depth.max()) <= float(centres.max()) <= 8.0


def test_bins_differ_from_image_to_image_and_the_whole_learns() -> None:
    model = small().train()
    depth, centres = model(torch.rand(2, 3, *SIZE))
    assert not torch.equal(centres[0], centres[1])
    (depth.square().mean() + centres.square().mean()).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert {name.split(".")[1] for name in unused} == {"up", "decoder", "head"}  # the restorer's, behind its maps
    assert all(name.startswith("encoder.") for name in unused)


def test_the_published_configuration_has_the_parameters_of_the_paper() -> None:
    """The paper's table 6 gives 78 M. Its positions have 500 rows where ours have one for each of the 13x17 patches."""
    with torch.device("meta"):
        model = build("adabins", (416, 544))
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    assert counts["encoder"] == 28_340_784  # tf_efficientnet_b5 without its classifier
    assert sum(counts.values()) == 78_221_616
    assert model.channels == (24, 40, 64, 176, 512)
    assert (model.mini.grid, model.mini.queries, model.scores.out_channels) == ((13, 17), 128, 256)


def test_the_backbones_own_weights_start_it() -> None:
    torch.manual_seed(1)
    encoder, model = build("restorer_xs", SIZE), small()
    before = small().state_dict()
    state = model.resize_state(encoder.state_dict())
    model.load_state_dict(state)
    assert torch.equal(model.encoder.stem.weight, encoder.stem.weight)
    assert torch.equal(model.scores.weight, before["scores.weight"])


def test_a_state_goes_to_another_size() -> None:
    model, other = small(), small((64, 32))
    other.load_state_dict(model.resize_state(model.state_dict(), (64, 32)))
    assert model.mini.grid == (4, 6)
    assert other.mini.pos_embed.shape == (1, 8 * 4, 16)
    same = model.resize_state(model.state_dict())
    assert all(torch.equal(value, same[key]) for key, value in model.state_dict().items())


def test_a_timm_pyramid_is_a_backbone_too() -> None:
    model = small((64, 96), backbone="timm:mobilenetv3_small_050", decoder_width=64)
    with torch.inference_mode():
        depth = model(torch.rand(1, 3, 64, 96))[0]
    assert depth.shape == (1, 1, 32, 48)
    assert model.feature_kind == "maps"
    assert [m.shape[1] for m in model.features(torch.rand(1, 3, 64, 96))] == list(model.channels)


@pytest.mark.slow
def test_files_answer_as_the_network_does(tmp_path: Path) -> None:
    check_files(small(), SIZE, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 24}, "24 queries from 4x6 tokens"),
        ({"min_depth": 4.0, "max_depth": 4.0}, "min_depth"),
        ({"backbone": "vit_micro_patch16_224"}, "convolutional pyramid"),
        ({"backbone": "nothing"}, "unknown variant"),
        ({"backbone": 3}, "adabins_small"),
        ({"num_heads": 3}, "num_heads"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(**options)


def test_the_rows_build_the_class() -> None:
    assert isinstance(build("adabins_small", (240, 320)), AdaBins)
