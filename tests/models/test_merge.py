"""Merging and dropping tokens: as one pair at a time would do it, and nothing is lost that was there twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pocketvit.errors import UsageError
from pocketvit.models import build
from pocketvit.models.attention_maps import attention_blocks
from pocketvit.models.layers.attention import SelfAttention
from pocketvit.models.layers.blocks import AttentionPool
from pocketvit.models.layers.merge import MergeBlock, match, merged, most_removable, noticed, rows
from pocketvit.models.narrow import find_units, keep_units
from pocketvit.models.replaced import replace_layers, replaced_in
from pocketvit.train.distil import common_blocks

VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8}


def by_hand(
    x: torch.Tensor, keys: torch.Tensor, sizes: torch.Tensor, r: int, prefix: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """ToMe of one image, one pair at a time: (N, D), (N, d), (N,) -> (N - r, D), (N - r,)."""

    def alike(i: int, j: int) -> float:
        return float(keys[i] @ keys[j] / (keys[i].norm() * keys[j].norm()))

    first, second = range(2 * prefix, len(x), 2), range(1, len(x), 2)
    nearest = {i: max(second, key=lambda j: alike(i, j)) for i in first}
    order = sorted(first, key=lambda i: -alike(i, nearest[i]))
    groups = {i: [i] for i in (*range(prefix), *sorted(order[r:]), *second)}
    for i in order[:r]:
        groups[nearest[i]].append(i)
    totals = [sum(float(sizes[i]) for i in group) for group in groups.values()]
    means = [sum(x[i] * sizes[i] for i in group) / total for group, total in zip(groups.values(), totals)]
    return torch.stack(means), torch.tensor(totals)


@pytest.mark.parametrize(("tokens", "prefix"), [(2, 0), (9, 1), (10, 1), (9, 0), (10, 0)])
def test_merging_is_that_of_a_plain_loop(tokens: int, prefix: int) -> None:
    torch.manual_seed(tokens)
    x, keys = torch.randn(3, tokens, 5), torch.randn(3, tokens, 4)
    sizes = torch.randint(1, 9, (3, tokens, 1)).float()
    most = most_removable(tokens, prefix, "merge")
    for r in range(1, most + 1):
        got, weights = merged(x, sizes, match(keys, r, prefix), prefix)
        assert got.shape == (3, tokens - r, 5)
        for image in range(3):
            want, totals = by_hand(x[image], keys[image], sizes[image, :, 0], r, prefix)
            torch.testing.assert_close(got[image], want)
            assert torch.equal(weights[image, :, 0], totals)
            alone = merged(
                *(t[image : image + 1] for t in (x, sizes)), match(keys[image : image + 1], r, prefix), prefix
            )
            torch.testing.assert_close(alone[0][0], got[image])
    with pytest.raises(UsageError, match=f"{most + 1} of {tokens} tokens cannot go.*at most {most} can"):
        match(keys, most + 1, prefix)


def test_five_tokens_by_hand() -> None:
    # Class token, then A = places 2, 4 and B = places 1, 3. Place 4 is parallel to 3, place 2 nearly so to 1.
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 5.0]]])
    x = torch.tensor([[[9.0], [1.0], [2.0], [3.0], [7.0]]])
    once, sizes = merged(x, torch.ones(1, 5, 1), match(keys, 1, 1), 1)
    assert once.flatten().tolist() == [9, 2, 1, 5]  # 4 went into 3: (3 + 7) / 2
    assert sizes.flatten().tolist() == [1, 1, 1, 2]
    twice, sizes = merged(x, torch.tensor([[[1.0], [1], [3], [1], [1]]]), match(keys, 2, 1), 1)
    assert twice.flatten().tolist() == [9, (1 + 3 * 2) / 4, 5]
    assert sizes.flatten().tolist() == [1, 4, 2]


def test_the_class_token_is_never_merged() -> None:
    torch.manual_seed(0)
    x, keys = torch.randn(2, 12, 6), torch.randn(2, 12, 4)
    keys[:, 1::3] = keys[:, :1]  # alike to the class token to the last digit
    for r in range(1, most_removable(12, 1, "merge") + 1):
        got, sizes = merged(x, torch.ones(2, 12, 1), match(keys, r, 1), 1)
        assert torch.equal(got[:, 0], x[:, 0])
        assert (sizes[:, 0] == 1).all()
        assert (sizes.sum(1) == 12).all()


def test_what_the_class_token_ignores_goes_and_the_rest_keeps_its_order() -> None:
    torch.manual_seed(1)
    qkv = torch.randn(2, 7, 3 * 8)
    q, k = qkv[..., :8], qkv[..., 8:16]
    kept = noticed(qkv, 4, 3)
    for image in range(2):
        shares = torch.zeros(7)
        for head in (slice(0, 4), slice(4, 8)):
            scores = torch.stack([q[image, 0, head] @ k[image, j, head] / 2 for j in range(7)])
            shares += scores.exp() / scores.exp().sum() / 2
        best = sorted(range(1, 7), key=lambda j: -float(shares[j]))[:3]
        assert kept[image].tolist() == [0, *sorted(best)]
    with pytest.raises(UsageError, match="6 of 7 tokens cannot go"):
        noticed(qkv, 4, 6)


def test_rows_of_one_image_and_of_many_are_the_same() -> None:
    x, index = torch.randn(4, 6, 3), torch.tensor([[0, 5], [1, 1], [3, 2], [5, 4]])
    for image in range(4):
        one = rows(x[image : image + 1], index[image : image + 1])
        assert torch.equal(one[0], x[image][index[image]])
        assert torch.equal(rows(x, index)[image], one[0])


def test_a_token_with_a_size_counts_as_so_many() -> None:
    torch.manual_seed(2)
    attention, pool = SelfAttention(8, 2), AttentionPool(8, 2)
    x, times = torch.randn(1, 4, 8), torch.tensor([1, 3, 1, 2])
    many = x.repeat_interleave(times, dim=1)
    own, places = attention.attend(attention.qkv(x), None, times.view(1, 4, 1).float()), [0, 1, 4, 5]
    torch.testing.assert_close(own, attention(many)[:, places])
    torch.testing.assert_close(pool(x, times.view(1, 4, 1).float()), pool(many))


def merging(options: dict[str, Any], r: int, **settings: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A ViT, and one with the same weights that merges in its first two blocks."""
    torch.manual_seed(3)
    pair = [build("vit_micro_patch16_224", (32, 40), {**VIT, **options}).eval() for _ in range(2)]
    pair[1].load_state_dict(pair[0].state_dict())
    with torch.no_grad():
        for model in pair:
            model.pos_embed.zero_()
    settings = {"prefix": pair[0].num_prefix, **settings}
    record = {f"blocks.{i}": {"kind": "merge_block", "r": (r, r, 0)[i], **settings} for i in range(3)}
    return pair[0], replace_layers(pair[1], record)


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_what_is_there_twice_can_be_merged_without_loss(pool: str) -> None:
    image = torch.rand(2, 3, 8, 8).repeat(1, 1, 4, 5)  # all patches alike, and no positions
    whole, merges = merging({"pool": pool, "layer_scale": 0.5}, 5)
    torch.testing.assert_close(merges(image), whole(image), atol=1e-5, rtol=1e-5)
    assert merges.tokens(image).shape == (2, whole.num_prefix + 20 - 10, 32)
    sizes = [sizes for _, sizes in merges.through(merges.embed(image))]
    assert all(torch.equal(s.sum(1), torch.full((2, 1), whole.num_prefix + 20.0)) for s in sizes)
    other = torch.rand(2, 3, 32, 40)
    assert not torch.allclose(merges(other), whole(other), atol=1e-5, rtol=1e-5)


def test_without_proportional_attention_sizes_do_not_count() -> None:
    image = torch.rand(1, 3, 32, 40)
    answers = [merging({}, 5, proportional=flag)[1](image) for flag in (True, False)]
    assert not torch.allclose(*answers, atol=1e-6)


def test_a_block_without_heads_takes_nothing_away() -> None:
    whole, merges = merging({}, 5)
    for model in (whole, merges):
        keep_units(model, find_units(model, ("heads",))[0], [])
    image = torch.rand(1, 3, 32, 40)
    assert [x.shape[1] for x, _ in merges.through(merges.embed(image))] == [21, 16, 16]
    torch.testing.assert_close(merges.blocks[0](merges.embed(image))[0], whole.blocks[0](whole.embed(image)))


def test_choices_do_not_depend_on_the_precision_of_training() -> None:
    _, merges = merging({}, 5)
    x = torch.randn(2, 21, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, sizes = merges.blocks[0](x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(sizes.sum(1), torch.full((2, 1), 21.0))


def test_what_merges_is_left_out_where_tokens_are_taken_for_patches() -> None:
    whole, merges = merging({}, 5)
    replace_layers(whole, {"blocks.2": replaced_in(merges)["blocks.2"]})
    assert attention_blocks(merges) == []
    assert attention_blocks(whole) == ["blocks.0", "blocks.1"]
    assert common_blocks(merges, merges) == []
    assert common_blocks(whole, whole) == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"r": -1},
        {"r": True},
        {"r": 1.0},
        {"r": 1, "mode": "drop"},
        {"r": 1, "prefix": 2},
        {"r": 1, "proportional": 1},
        {"r": 1, "mode": "prune", "prefix": 0},
        {"r": 1, "class_only": True},
        {"r": 0, "class_only": True, "prefix": 0},
        {"r": 1, "more": 1},
    ],
)
def test_a_record_that_lies_is_refused(settings: dict[str, Any]) -> None:
    model = build("vit_micro_patch16_224", (32, 40), VIT)
    with pytest.raises(RuntimeError):
        replace_layers(model, {"blocks.0": {"kind": "merge_block", **settings}})
    with pytest.raises(RuntimeError, match="no block with softmax attention"):
        replace_layers(model, {"blocks.0.mlp": {"kind": "merge_block", "r": 1}})
    linear = build("vit_micro_patch16_224", (32, 40), {**VIT, "attention": "linear"})
    with pytest.raises(RuntimeError, match="no block with softmax attention"):
        replace_layers(linear, {"blocks.0": {"kind": "merge_block", "r": 1}})


def test_a_block_says_what_it_is_made_of() -> None:
    _, merges = merging({}, 4, proportional=False)
    block = merges.blocks[1]
    assert isinstance(block, MergeBlock)
    wanted = {"r": 4, "mode": "merge", "prefix": 1, "proportional": False, "class_only": False}
    assert block.settings == wanted
    assert replaced_in(merges)["blocks.1"] == {"kind": "merge_block", **wanted}
