from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pocketvit.errors import UsageError, VerificationError
from pocketvit.export.artifact import make_golden, pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.command import export
from pocketvit.export.formats import exporter
from pocketvit.export.split import SplitReport, check_place, halve, identity, write_split
from pocketvit.export.split import joined as joined_files
from pocketvit.models.layers.blocks import ClassBlock
from pocketvit.models.layers.exits import EarlyExits
from pocketvit.models.layers.merge import MergeBlock
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.runtimes.model import load
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.manifest import Licence
from tests.export.nets import cases, inputs, restorer
from tests.halves import DEPTH, network
from tests.tiny import photo


def joined(trained: Trained, after: int) -> tuple[list[np.ndarray], list[np.ndarray], tuple[int, ...]]:
    """Answers of tail after head, of the whole, both in torch; and the shape between them."""
    pictures = np.stack(inputs(trained, 3))
    cut, whole = halve(trained, after, 8, pictures), pixel_model_of(trained)
    with torch.inference_mode():
        tail = [cut.tail.graph(torch.from_numpy(x)[None]) for x in cut.features]
        straight = [whole(torch.from_numpy(x)[None]) for x in pictures]
    both = [[torch.cat(answer, dim=1).numpy() for answer in answers] for answers in (tail, straight)]
    return both[0], both[1], cut.tail.split.shape


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_tail_after_head_is_the_whole_network(pool: str, after: int) -> None:
    parts, whole, (tokens, width) = joined(network(pool=pool), after)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert width == 32
    patches = 4 * 5
    assert tokens == (1 if pool == "cls" and after == DEPTH else patches + (pool == "cls"))


def test_narrowed_blocks_and_blocks_of_the_class_token_are_cut_too() -> None:
    trained = network()
    blocks: Any = trained.model.backbone.blocks
    for layer, kept in ((blocks[0].mlp.fc1, 24), (blocks[2].mlp.fc1, 16)):
        layer.weight, layer.bias = (torch.nn.Parameter(x[:kept]) for x in (layer.weight.data, layer.bias.data))
    for layer, kept in ((blocks[0].mlp.fc2, 24), (blocks[2].mlp.fc2, 16)):
        layer.weight = torch.nn.Parameter(layer.weight.data[:, :kept])
    blocks[2] = ClassBlock.in_place_of(blocks[2])
    for after in (1, 2, 3):
        parts, whole, shape = joined(trained, after)
        np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert shape == (1, 32)


def test_tokens_may_be_merged_behind_the_cut_and_pruned_in_front_of_it() -> None:
    trained = network()
    blocks: Any = trained.model.backbone.blocks
    blocks[1] = MergeBlock.in_place_of(blocks[1], r=6)
    parts, whole, _ = joined(trained, 1)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    with pytest.raises(UsageError, match="merged in front of this cut"):
        joined(trained, 2)
    blocks[1] = MergeBlock.in_place_of(blocks[1], r=6, mode="prune")
    parts, whole, shape = joined(trained, 2)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert shape == (15, 32)


def test_neither_half_holds_what_it_does_not_need_and_the_network_stays() -> None:
    trained = network()
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    cut = halve(trained, 1, 8, np.stack(inputs(trained, 1)))
    count = sum(x.numel() for x in trained.model.parameters())
    parts = [sum(x.numel() for x in half.graph.model.parameters()) for half in (cut.head, cut.tail)]
    assert sum(parts) == count
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.model.state_dict().items())


def test_the_split_is_named_after_what_makes_the_features() -> None:
    trained, pictures = network(), np.stack(inputs(network(), 1))

    def name(after: int = 1) -> str:
        return halve(trained, after, 8, pictures).head.split.id

    first = name()
    assert first == name() == halve(trained, 1, 4, pictures).tail.split.id
    assert first != name(2)
    model: Any = trained.model
    with torch.no_grad():
        model.heads[0].weight += 1  # of the tail
        assert name() == first
        model.backbone.blocks[0].mlp.fc1.bias += 1
    assert name() != first
    assert identity(model, trained, 1) != first


def test_what_cannot_be_cut_says_why() -> None:
    pictures = np.stack(inputs(network(), 1))
    for after in (0, 4):
        with pytest.raises(UsageError, match="the network has 3 blocks"):
            halve(network(), after, 8, pictures)
    for bits in (1, 9):
        with pytest.raises(UsageError, match="at least 2 and at most 8"):
            halve(network(), 1, bits, pictures)
    with pytest.raises(UsageError, match="not cut in two: it joins what it found at full size"):
        halve(restorer(), 1, 8, pictures)
    trained = network()
    model: Any = trained.model
    settings: dict[str, Any] = {"after": [1], "thresholds": [0.5], "classes": [2, 3], "width": 64, "hidden": 0}
    model.exits = EarlyExits.in_place_of(model.exits, **settings)
    with pytest.raises(UsageError, match="early exits is not cut in two"):
        halve(trained, 1, 8, pictures)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run`` (a checkpoint) and ``photos`` in folders of classes."""
    folder = tmp_path_factory.mktemp("world")
    save_checkpoint(folder / "run" / "best", network())
    for i, label in enumerate(("a/x", "a/x", "a/y", "b/z")):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(64, 72, seed=i)).save(folder / "photos" / label / f"{i}.png")
    return folder


def test_the_command_writes_both_halves_and_says_what_the_way_costs(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "split"
    report = export(str(world / "run"), str(out), data=str(world / "photos"), layout="classes", split_at=2)
    assert isinstance(report, SplitReport)
    head, tail = (read_artifact(out / half).manifest for half in ("head", "tail"))
    assert (head.name, tail.name) == ("split-head", "split-tail")
    assert head.split is not None
    assert tail.split is not None
    assert head.split.id == tail.split.id
    assert (head.split.after, head.split.blocks, head.split.shape) == (2, 3, (21, 32))
    assert (head.levels, [level.name for level in tail.levels]) == ([], ["coarse", "fine"])
    assert head.architecture["macs"] > tail.architecture["macs"] > 0
    assert load(out / "head").session.outputs["features"].shape == (1, 21, 32)
    text = report.render()
    assert "cut behind block 2 of 3" in text
    assert "21 x 32 values of 8 bits" in text
    assert 0 < report.wire.error < 0.05
    assert report.wire.bytes < 21 * 32 + 100
    assert report.to_dict()["wire"]["answers"]["min_agreement"] == 100.0
    assert "predict THIS_FOLDER photo.jpg --server URL" in (out / "head" / "card.md").read_text()

    with pytest.raises(UsageError, match="already exists"):
        check_place(out, replace_existing=False)
    check_place(out, replace_existing=True)
    (out / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="is not replaced"):
        check_place(out, replace_existing=True)


@pytest.mark.slow
def test_the_other_formats_are_written_and_proven_too(tmp_path: Path) -> None:
    trained = network()
    golden = make_golden(trained, cases("classify", 4), 4)
    writers = [exporter(name) for name in ("openvino", "torchscript")]
    about: dict[str, Any] = {"name": "a", "version": "0.1.0", "main_metric": "fine.top1", "licence": Licence()}
    report = write_split(trained, tmp_path / "a", halve(trained, 1, 8, golden.inputs), golden, writers, **about)
    assert len(report.parts) == 4
    assert max(row["max_abs"] for row in report.parts.values()) < 1e-3
    for half in ("head", "tail"):
        for target in ("openvino:fp32:1", "torchscript:fp32:1"):
            assert load(tmp_path / "a" / half, target, trust=True).manifest.split is not None


def test_too_few_bits_are_an_error(halves: Path) -> None:
    trained = network()
    golden = make_golden(trained, cases("classify", 6), 6)
    head, tail = (Built("onnxruntime", "fp32", halves / "cut1" / part / f"{part}.onnx") for part in ("head", "tail"))
    manifest = read_artifact(halves / "cut1" / "tail").manifest
    wire = joined_files(head, tail, halve(trained, 1, 8, golden.inputs), golden, manifest)
    assert (0 < wire.error < 0.02, wire.answers["min_agreement"]) == (True, 100.0)
    with pytest.raises(VerificationError, match="features of 2 bits behind block 1 change the answers"):
        joined_files(head, tail, halve(trained, 1, 2, golden.inputs), golden, manifest)
