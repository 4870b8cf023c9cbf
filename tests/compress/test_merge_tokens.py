"""Token merging as a step: ToMe as written out, a static file without scattering, and a network that lives on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import pocketvit
from pocketvit.compress.fuse import Fuse, folded
from pocketvit.compress.merge_tokens import MergeTokens, merge_tokens, removals, vit_of
from pocketvit.compress.onnx_edit import counts
from pocketvit.compress.onnx_graph import LeanGraph
from pocketvit.compress.onnxruntime_int8 import StaticInt8
from pocketvit.compress.prune_structured import Prune, prune
from pocketvit.compress.step import Context, StepReport
from pocketvit.compress.table import plan_slots
from pocketvit.errors import UsageError
from pocketvit.export import openvino
from pocketvit.export.artifact import answers, pixel_model_of
from pocketvit.export.onnx import write
from pocketvit.models.layers.blocks import ClassBlock
from pocketvit.models.layers.merge import MergeBlock
from pocketvit.models.replaced import replaced_in
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks.load import at_size, load_checkpoint
from tests.compress.helpers import apply
from tests.compress.training import answer, given, restoring
from tests.export.nets import classifier, inputs
from tests.models.test_backbone import HYBRID, check_files, one_batch, trained, trained_as
from tests.models.test_merge import by_hand
from tests.tiny import run_onnx

NOWHERE = Context((), Path())
MOVES = {"ScatterND", "ScatterElements", "Scatter", "NonZero", "Shape", "If", "Loop", "Where"}


def four_blocks(**options: Any) -> Trained:
    """20 patches, and a class token unless told otherwise."""
    return classifier({"depth": 4, **options})


def merged(start: Trained, **settings: Any) -> Trained:
    return network(merge_tokens(MergeTokens(**settings), start, NOWHERE))


def network(report: StepReport) -> Trained:
    assert isinstance(report.result, Trained)
    return report.result


def by_loops(trained: Trained, image: torch.Tensor, gone: list[int]) -> torch.Tensor:
    """The last block's class token of one image, with attention and merging written out."""
    vit: Any = trained.model.backbone
    x = vit.embed(image[None])[0]
    sizes = torch.ones(len(x))
    for block, count in zip(vit.blocks, gone):
        q, k, v = (block.attn.qkv(block.norm1(x))).chunk(3, dim=-1)
        heads = [slice(16 * h, 16 * h + 16) for h in range(2)]
        mixed = [((q[:, h] @ k[:, h].T / 4).exp() * sizes, v[:, h]) for h in heads]
        x = x + block.attn.proj(torch.cat([w / w.sum(1, keepdim=True) @ part for w, part in mixed], dim=1))
        if count:
            x, sizes = by_hand(x, (k[:, heads[0]] + k[:, heads[1]]) / 2, sizes, count, 1)
        x = x + block.mlp(block.norm2(x))
    return vit.norm(x)[0]


def test_the_network_answers_as_tome_written_out() -> None:
    start = four_blocks()
    images = torch.rand(3, 3, 32, 40)
    with torch.no_grad():
        for class_only in (True, False):
            model = merged(start, r=4, class_only=class_only).model
            want = torch.stack([by_loops(start, image, [4, 4, 4, 0]) for image in images])
            torch.testing.assert_close(model.backbone(images), want, atol=1e-4, rtol=1e-4)
        assert (model.backbone(images) - start.model.backbone(images)).abs().max() > 0.01
        # ToMe merges behind the last attention too, which no class token sees.
        torch.testing.assert_close(want[0], by_loops(start, images[0], [4, 4, 4, 4]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "settings", "gone"),
    [
        ({}, {}, [3, 3, 4, 0]),
        ({}, {"r": 5}, [5, 5, 5, 0]),
        ({"pool": "gap"}, {"r": 3}, [3, 3, 3, 3]),
        ({"pool": "map"}, {"keep": 0.2}, [4, 4, 4, 4]),
        ({}, {"keep": 0.6, "first_block": 1}, [0, 4, 4, 0]),
        ({}, {"keep": 0.6, "every": 2}, [4, 0, 4, 0]),
        ({}, {"keep": 0.05, "mode": "prune"}, [6, 6, 7, 0]),
        ({"pool": "gap"}, {"r": 2, "first_block": 3}, [0, 0, 0, 2]),
    ],
)
def test_how_many_go_and_where(options: dict[str, Any], settings: dict[str, Any], gone: list[int]) -> None:
    start = four_blocks(**options)
    assert removals(MergeTokens(**settings), vit_of(start)) == gone
    report = merge_tokens(MergeTokens(**settings), start, NOWHERE)
    vit: Any = network(report).model.backbone
    seen = [x.shape[1] for x, _ in vit.through(vit.embed(torch.rand(2, 3, 32, 40)))]
    tokens = report.notes["tokens"]
    assert (report.notes["gone"], tokens[0]) == (gone, 20 + vit.num_prefix)
    assert seen == [*tokens[1:-1], 1 if vit.num_prefix else tokens[-1]]
    assert f"{tokens[0]} tokens became {tokens[-1]}: {sum(gone)} were" in report.told


def test_only_what_must_change_is_replaced() -> None:
    start = four_blocks()
    for settings, kinds in (
        ({"r": 2, "first_block": 1}, ["", "merge_block", "merge_block", "merge_block"]),
        ({"r": 2, "every": 2, "proportional": False}, ["merge_block", "", "merge_block", "class_block"]),
        ({"r": 2, "every": 2, "mode": "prune", "class_only": False}, ["merge_block", "", "merge_block", ""]),
    ):
        record = replaced_in(merged(start, **settings).model)
        assert [record.get(f"backbone.blocks.{i}", {}).get("kind", "") for i in range(4)] == kinds
    assert replaced_in(start.model) == {}


@pytest.mark.parametrize(
    ("options", "settings"),
    [({}, {"r": 4}), ({"pool": "gap"}, {"keep": 0.3}), ({"pool": "map"}, {"r": 3}), ({}, {"r": 4, "mode": "prune"})],
)
def test_files_are_static_and_answer_as_the_network(
    options: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    result = merged(four_blocks(**options), **settings)
    model, pictures = pixel_model_of(result), inputs(result, 6)
    want = answers(model, pictures)
    built = write(model, (32, 40), tmp_path)
    graph = onnx.load(built.path)
    assert not counts(graph).keys() & MOVES
    shapes = [x.type.tensor_type.shape.dim for x in onnx.shape_inference.infer_shapes(graph).graph.value_info]
    assert all(d.dim_value > 0 for shape in shapes for d in shape)
    for name, value in run_onnx(built.path, np.stack(pictures)).items():
        np.testing.assert_allclose(value, want[name], atol=2e-5)
    assert max(float(np.ptp(x, axis=0).max()) for x in want.values()) > 0.01  # answers depend on the picture
    pytest.importorskip("openvino")
    ir = openvino.write(model, (32, 40), tmp_path / "ir")
    compiled = openvino.engine().Core().compile_model(str(ir.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for index, picture in enumerate(pictures):
        found = compiled(picture[None])
        for port, name in zip(compiled.outputs, want):
            np.testing.assert_allclose(found[port][0], want[name][index], atol=2e-5)


@pytest.mark.parametrize("settings", [{"r": 4}, {"r": 4, "mode": "prune"}, {"r": 3, "every": 2, "proportional": False}])
def test_it_is_saved_loaded_trained_and_resized(settings: dict[str, Any], tmp_path: Path) -> None:
    result = merged(four_blocks(), **settings)
    check_files(result, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert replaced_in(loaded.model) == replaced_in(result.model) != {}
    assert isinstance(loaded.model.get_submodule("backbone.blocks.0"), MergeBlock)
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    losses = one_batch(replace(loaded, model=Once(loaded.model)), 1)
    assert losses[1] < losses[0]
    changed = [key for key, value in loaded.model.state_dict().items() if not torch.equal(value, before[key])]
    assert {f"backbone.blocks.{i}.attn.qkv.weight" for i in range(4)} <= set(changed)
    assert at_size(loaded, (64, 64)).model(torch.zeros(1, 3, 64, 64))[0].shape == (1, 2)
    with pytest.raises(UsageError, match="tokens cannot go in one block"):
        at_size(loaded, (16, 16))


class Once(torch.nn.Module):
    """The finer of a classifier's two levels alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model(image)[1],)


def test_it_stands_behind_pruning_and_before_it(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    context = given(recipe, tmp_path)
    cut = network(prune(Prune(keep=0.6, epochs=0, multiple=8, images=8), start, context))
    assert isinstance(cut.model.backbone.blocks[-1], ClassBlock)
    both = network(merge_tokens(MergeTokens(keep=0.5, class_only=False), cut, context))
    assert both.model.backbone.blocks[-1].class_only  # as it was
    check_files(both, tmp_path / "both")
    other = network(prune(Prune(keep=0.6, epochs=0, multiple=8, images=8), merged(start, keep=0.5), context))
    check_files(other, tmp_path / "other")
    assert sum(p.numel() for p in other.model.parameters()) < sum(p.numel() for p in start.model.parameters())
    assert load_checkpoint(tmp_path / "other").model.backbone.blocks[0].r > 0


@pytest.mark.parametrize("mode", ["merge", "prune"])
def test_it_stands_behind_folding(mode: str, tmp_path: Path) -> None:
    start = four_blocks()
    plain, other = merged(start, r=4, mode=mode), merged(folded(Fuse(), start)[0], r=4, mode=mode)
    torch.testing.assert_close(answer(other), answer(plain), atol=1e-4, rtol=1e-4)
    save_checkpoint(tmp_path, other)
    assert torch.equal(answer(load_checkpoint(tmp_path)), answer(other))


@pytest.mark.parametrize("settings", [{"r": 4}, {"r": 4, "proportional": False}, {"r": 4, "mode": "prune"}])
def test_int8_and_the_lean_graph_take_its_files(settings: dict[str, Any], tmp_path: Path) -> None:
    result = merged(four_blocks(), **settings)
    pictures = inputs(result, 8)
    built = write(pixel_model_of(result), (32, 40), tmp_path, "net")
    want = run_onnx(built.path, np.stack(pictures))
    lean = apply(LeanGraph(), built, pictures, None, tmp_path)
    assert counts(onnx.load(lean.built.path))["MultiHeadAttention"] == 3  # the last has one query alone
    for name, value in run_onnx(lean.built.path, np.stack(pictures)).items():
        np.testing.assert_allclose(value, want[name], atol=2e-5)
    quantised = apply(StaticInt8(max_float_layers=0, rank_images=2), built, pictures, None, tmp_path).built
    both = apply(LeanGraph(max_error=1.0), quantised, pictures, None, tmp_path)
    kinds = counts(onnx.load(both.built.path))
    assert kinds["MatMulIntegerToFloat"] >= 4 * 4 + 2
    for name, value in run_onnx(both.built.path, np.stack(pictures)).items():
        assert np.abs(value - want[name]).mean() < 0.05


def test_retraining_begins_where_it_should(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    context = given(recipe, tmp_path)
    before = answer(start)
    for r in (2, 3):  # the same weights, another network
        report = merge_tokens(MergeTokens(r=r, epochs=1, lr=1e-3), start, context)
        assert network(report).model.backbone.blocks[0].r == r
        assert network(report).info["retrained"]["epochs"] == 1
    assert len(list(tmp_path.glob("retrain-*"))) == 2
    assert torch.equal(answer(start), before)
    with pytest.raises(UsageError, match="no block in common"):  # behind the first merging block tokens are others
        merge_tokens(MergeTokens(r=2, epochs=1, distill=("features",)), start, context)
    with pytest.raises(UsageError, match="given no data"):
        merge_tokens(MergeTokens(r=2, epochs=1), start, NOWHERE)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 4, "keep": 0.5}, "both given"),
        ({"r": 0}, "r must be"),
        ({"keep": 1.0}, "keep must be"),
        ({"mode": "drop"}, "mode"),
        ({"share": 0.5}, "no setting 'share'"),
    ],
)
def test_settings_that_cannot_be_are_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_slots([{"merge_tokens": settings}], "onnxruntime")


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    start = four_blocks()
    with pytest.raises(UsageError, match="in block 1, with 12 tokens left: 9 of 12 tokens cannot go") as caught:
        merged(start, r=9)
    assert "Lower r" in caught.value.todo
    with pytest.raises(UsageError, match="in block 2, with 3 tokens left: 9 of 3 tokens cannot go"):
        merged(start, r=9, mode="prune")
    with pytest.raises(UsageError, match="at most 10 can"):
        merged(start, r=11)
    with pytest.raises(UsageError, match="first_block 3: no block behind it") as caught:
        merged(start, r=1, first_block=3)
    assert "0, 1, 2" in caught.value.todo
    with pytest.raises(UsageError, match="this ViT has none"):
        merged(four_blocks(pool="gap"), r=1, mode="prune")
    with pytest.raises(UsageError, match="are merged already"):
        merged(merged(start, r=1), r=1)
    with pytest.raises(UsageError, match="attention without a softmax"):
        merged(four_blocks(attention="linear"), r=1)


def test_networks_without_tokens_to_spare_are_refused(tmp_path: Path) -> None:
    small = {**HYBRID, "patch_size": 8}
    pixels = trained_as({"name": "restore"}, "vit_tiny_patch16_224", small, (32, 48))
    with pytest.raises(UsageError, match="is read patch by patch"):
        merged(pixels, r=2)
    others = [
        trained("timm:mobilenetv3_small_050", {}, (64, 64)),
        trained("vit_restorer_base_token", small, (32, 48)),
        restoring(tmp_path)[0],
    ]
    for other in others:
        with pytest.raises(UsageError, match="has no tokens that could be merged"):
            merged(other, r=2)


@pytest.mark.slow
def test_compress_merges_behind_the_gate(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    save_checkpoint(tmp_path / "start", start)
    fields = {
        "compress": {"steps": [{"merge_tokens": {"r": 2, "epochs": 1}}, "int8", "graph"], "min_speedup": 0.1},
        "search": {"timing_seconds": 0.1, "quiet_seconds": 0, "runtimes": ["onnxruntime"]},
        "floor": {"max_drop": 60},
    }
    own = load_recipe(recipe, fields)
    report = pocketvit.compress(own, checkpoint=str(tmp_path / "start"), name="c", runs=str(tmp_path), quiet=True)
    rows = {row.step or "float": row for row in report.rows}
    assert rows["merge_tokens"].model
    assert "tokens became" in rows["merge_tokens"].reason
    loaded = load_checkpoint(rows["merge_tokens"].model)
    assert loaded.model.backbone.blocks[0].r == 2
    assert json.loads(json.dumps(report.to_dict()))
    assert pocketvit.verify(str(report.artifact)).passed
