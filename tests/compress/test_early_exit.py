"""Early exits: what leaves where, that the file does so too, and that the curve is what a plain count gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pocketvit.compress.cluster import Cluster
from pocketvit.compress.early_exit import NEVER, EarlyExit, Held, at_thresholds, default_exits, early_exit, leaving_at
from pocketvit.compress.onnx_graph import LeanGraph
from pocketvit.compress.onnxruntime_int8 import StaticInt8
from pocketvit.compress.prune_structured import Prune, prune
from pocketvit.compress.step import Context, StepReport
from pocketvit.compress.store import Store
from pocketvit.compress.table import plan_slots
from pocketvit.data.cases import Case, eval_cases
from pocketvit.errors import DataError, UsageError
from pocketvit.export.artifact import LEAST_MARGIN, answers, make_golden, pixel_model_of
from pocketvit.export.branches import has_branches
from pocketvit.export.built import Built
from pocketvit.export.check import check_parity, run_file
from pocketvit.export.onnx import write
from pocketvit.models.layers.exits import EarlyExits, confidence
from pocketvit.models.pixels import normalise
from pocketvit.models.replaced import replace_layers
from pocketvit.models.trained import META, Trained, copy_of, save_checkpoint
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import prepare
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.spec.tasks import TASKS
from pocketvit.tasks.load import at_size, load_checkpoint
from pocketvit.tasks.start import new_model
from tests.compress.helpers import apply
from tests.compress.training import given, restoring
from tests.models.test_backbone import LEVELS, VIT, one_batch, trained
from tests.tiny import photo
from tests.train.helpers import classify_recipe, write_classes

QUICK: dict[str, Any] = {"epochs": 8, "views": 2, "folds": 3, "hidden": 8, "batch_size": 16}
DEEP = {"name": "vit_micro_patch16_224", "options": {**VIT, "depth": 4}}
FP32 = TASKS["classify"].tolerances["fp32"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Recipe]:
    """A micro ViT of four blocks, trained for a moment: unsure enough that photos go different ways."""
    from pocketvit.data.collections import load_splits
    from pocketvit.tasks.start import new_model
    from pocketvit.train.loop import train_model

    folder = tmp_path_factory.mktemp("taught")
    fields = {"model": DEEP, "train.epochs": 2, "train.threads": 1}
    recipe = classify_recipe(write_classes(folder / "data"), **fields)
    splits = load_splits(recipe.data, "classify")
    return train_model(new_model(recipe, splits.train.levels), splits, recipe, folder / "run"), recipe


@pytest.fixture(scope="module")
def done(taught: tuple[Trained, Recipe], tmp_path_factory: pytest.TempPathFactory) -> StepReport:
    """The step with its threshold chosen; leaving takes 1 ms for each block, the plain network 4.5."""
    context = given(taught[1], tmp_path_factory.mktemp("step"), time=lambda files: [1.0, 3.0, 5.0, 4.5][: len(files)])
    return next(early_exit(EarlyExit(exits=(1, 3), **QUICK), taught[0], context))


def with_exits(thresholds: tuple[float, ...] = (0.5, 0.5), after: tuple[int, ...] = (1, 3)) -> Trained:
    """Random weights, with exits that know nothing."""
    start = trained("vit_tiny_patch16_224", {**VIT, "depth": 4}, (32, 48))
    entry = {"kind": "early_exits", "after": list(after), "thresholds": list(thresholds), "classes": [3]}
    replace_layers(start.model, {"exits": {**entry, "width": 64, "hidden": 8}})
    return replace(start, model=start.model.eval())


@torch.no_grad()
def by_hand(network: Trained, image: torch.Tensor) -> list[torch.Tensor]:
    """Probabilities of each exit and of the last head for a normalised (1, 3, H, W), block by block."""
    model = network.model
    vit, exits = model.backbone, model.exits
    x, found = vit.embed(image), []
    for number, block in enumerate(vit.blocks, 1):
        x = block(x)
        if number in exits.after:
            head = exits.heads[exits.after.index(number)]
            pooled = torch.cat([x[:, 0], x[:, 1:].mean(1)], 1)
            found.append(head.heads[0](torch.nn.functional.gelu(head.fc(head.norm(pooled)))).softmax(1))
    return [*found, model.heads[0](vit.norm(x)[:, 0]).softmax(1)]


def pictures(network: Trained, count: int = 6) -> np.ndarray:
    height, width = network.preprocess.size
    return np.stack([photo(height, width, seed=i) for i in range(count)])


def test_the_first_exit_that_is_sure_answers_for_each_image_of_a_batch() -> None:
    network = with_exits()
    x = torch.randn(12, 3, 32, 48) * 3
    each = [by_hand(network, image[None]) for image in x]
    sure = torch.tensor([[float(p.max()) for p in probs[:-1]] for probs in each])
    thresholds = tuple(float(t) for t in sure.quantile(0.6, dim=0))
    chosen = at_thresholds(network, thresholds)
    with torch.no_grad():
        found = chosen.model(x)[0].softmax(1)
    ways = set()
    for answer, probs in zip(found, each, strict=True):
        way = next((k for k, t in enumerate(thresholds) if float(probs[k].max()) >= np.float32(t)), 2)
        ways.add(way)
        torch.testing.assert_close(answer, probs[way][0], atol=1e-5, rtol=1e-5)
    assert ways == {0, 1, 2}


@pytest.mark.parametrize(("thresholds", "way"), [((0.0, 0.0), 0), ((NEVER, 0.0), 1), ((NEVER, NEVER), 2)])
def test_the_file_answers_as_the_network_by_every_way(thresholds: tuple[float, ...], way: int, tmp_path: Path) -> None:
    network = at_thresholds(with_exits(), thresholds)
    images = pictures(network, 3)
    built = write(pixel_model_of(copy_of(network)), network.preprocess.size, tmp_path)
    assert built.varies
    assert has_branches(onnx.load(built.path))
    golden = make_golden(network, [Case(image, np.array([0]), "", Path()) for image in images])
    assert len(golden.inputs) == 3
    check_parity(built, golden, FP32, 1)
    got = run_file(built, images, ["probs_label"], 1)["probs_label"]
    for image, answer in zip(images, got, strict=True):
        x = normalise(torch.from_numpy(image)[None], network.preprocess)
        np.testing.assert_allclose(answer, by_hand(network, x)[way][0], atol=1e-5)


def test_a_file_step_behind_it_works_or_says_why_not(tmp_path: Path) -> None:
    network = with_exits((0.4, 0.4))
    images = list(pictures(network, 8))
    built = write(pixel_model_of(copy_of(network)), network.preprocess.size, tmp_path)
    want = run_file(built, np.stack(images), ["probs_label"], 1)["probs_label"]
    source = built.path.read_bytes()
    for step, limit in ((LeanGraph(), 1e-4), (Store(), 0.0), (StaticInt8(weigh="work"), 0.3)):
        made = apply(step, built, images, None, tmp_path).built
        assert made.varies, step
        got = run_file(made, np.stack(images), ["probs_label"], 1)["probs_label"]
        assert np.abs(got - want).max() <= limit, step
        if not isinstance(step, Store):
            assert has_branches(onnx.load(made.path))
            assert made.precision == ("int8" if isinstance(step, StaticInt8) else "fp32")
    lean = apply(LeanGraph(), made, images, None, tmp_path).built  # behind int8, where it belongs
    assert lean.varies
    assert np.abs(run_file(lean, np.stack(images), ["probs_label"], 1)["probs_label"] - got).max() < 0.05
    with pytest.raises(UsageError, match="does not look into the branches"):
        apply(Cluster(), built, images, None, tmp_path)
    assert built.path.read_bytes() == source


def test_the_threshold_is_the_least_from_which_on_nothing_loses_more() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random((2, 400)).astype(np.float32)
    hits = np.concatenate([rng.random((2, 400)) < sure**0.3, rng.random((1, 400)) < 0.95])
    held = Held(sure, hits)
    accuracy = {}
    for threshold in np.round(np.arange(0, 1.0005, 0.005), 3):
        right = 0
        for k in range(400):
            way = next((e for e in range(2) if sure[e, k] >= np.float32(threshold)), 2)
            right += bool(hits[way, k])
        accuracy[float(threshold)] = right / 4
        assert held.point(float(threshold)).metric == pytest.approx(right / 4)
    for loss in (0.5, 2.0, 100.0):
        limit = 100 * hits[2].mean() - loss - 1e-9
        sound = [t for t in accuracy if all(accuracy[u] >= limit for u in accuracy if u >= t)]
        assert held.choose(loss) == min(sound)
    assert held.choose(100.0) == 0.0
    assert leaving_at(sure, NEVER).tolist() == [2] * 400
    assert leaving_at(sure, 0.0).tolist() == [0] * 400


def test_the_curve_is_what_a_plain_count_gives(
    done: StepReport, taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    network, recipe = done.result, taught[1]
    assert isinstance(network, Trained)
    val = given(recipe, tmp_path).data.val
    photos = list(eval_cases(val, recipe.data, limit=recipe.search.eval_images))
    said = []
    for case in photos:
        x = normalise(torch.from_numpy(np.array(prepare(case.image, network.preprocess)))[None], network.preprocess)
        said.append([p[0].numpy() for p in by_hand(network, x)])
    points = done.notes["exits"]
    assert [p["threshold"] for p in points] == sorted(p["threshold"] for p in points)
    assert (
        [p["threshold"] for p in points if p["chosen"]]
        == [done.notes["threshold"]]
        == [network.model.exits.thresholds[0]]
    )
    for point in points:
        ways = [next((k for k in range(2) if probs[k].max() >= np.float32(point["threshold"])), 2) for probs in said]
        hits = [int(probs[w].argmax()) == int(c.truth[-1]) for probs, w, c in zip(said, ways, photos, strict=True)]
        assert point["shares"] == pytest.approx([ways.count(k) / len(ways) for k in range(3)])
        assert point["metric"] == pytest.approx(100 * np.mean(hits))
        assert point["ms"] == pytest.approx(np.mean([(1.0, 3.0, 5.0)[w] for w in ways]))
    assert done.notes["exit_ms"] == [1.0, 3.0, 5.0, 4.5]
    assert f"of {len(photos)} validation photos leave behind block 1 / 3 / 4" in done.told
    json.dumps(done.to_dict())


def test_heads_learn_from_frozen_blocks_and_are_found_again(
    done: StepReport, taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    start, recipe = taught
    network = done.result
    for name, value in start.model.state_dict().items():
        assert torch.equal(value, network.model.state_dict()[name])
    assert done.notes["metric_alone"][0] > 50  # of three classes, behind one block
    step, context = EarlyExit(exits=(1, 3), max_loss=100.0, **QUICK), given(recipe, tmp_path, time=None)
    first = list(early_exit(step, start, context))
    assert first[0].result.model.exits.thresholds[0] <= first[-1].result.model.exits.thresholds[0]
    assert len({report.notes["threshold"] for report in first}) == len(first)
    assert all(point["ms"] is None for point in first[0].notes["exits"])
    kept = next(tmp_path.glob("exits-*.npz"))
    stamp = kept.stat().st_mtime_ns
    again = next(early_exit(replace(step, threshold=0.25), start, context))  # another threshold, the same heads
    assert kept.stat().st_mtime_ns == stamp
    assert again.result.model.exits.thresholds == (0.25, 0.25)
    for name, value in first[0].result.model.state_dict().items():
        assert torch.equal(value, again.result.model.state_dict()[name])
    kept.write_bytes(b"damaged")
    assert next(early_exit(step, start, context)).notes["threshold"] == first[0].notes["threshold"]


def test_exits_are_saved_loaded_resized_and_trained_on(tmp_path: Path) -> None:
    network = with_exits((0.45, 0.7))
    save_checkpoint(tmp_path, network)
    loaded = load_checkpoint(tmp_path)
    x = torch.randn(5, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x)[0], network.model(x)[0])
    assert loaded.model.exits.thresholds == (0.45, 0.7)
    assert at_size(loaded, (64, 32)).model(torch.zeros(1, 3, 64, 32))[0].shape == (1, 3)
    target, teacher = torch.tensor([[0], [1], [2], [0], [1]]), network.model(x)
    from pocketvit.tasks import TORCH_TASKS

    task, model = TORCH_TASKS["classify"], loaded.model.train()
    assert len(model(x)) == 3
    parts = [task.loss((logits,), target, loaded.task, None) for logits in model(x)]
    torch.testing.assert_close(task.loss(model(x), target, loaded.task, None), torch.stack(parts).mean())
    (task.loss(model(x), target, loaded.task, None) + task.distil(model(x), teacher, 2.0)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.exits.parameters())
    losses = one_batch(load_checkpoint(tmp_path), 1)
    assert losses[1] < losses[0]


def test_fine_tuning_again_keeps_exits_where_the_labels_stay(tmp_path: Path) -> None:
    network = with_exits((0.45, 0.7))
    save_checkpoint(tmp_path, network)
    model = {"name": "vit_tiny_patch16_224", "options": {**VIT, "depth": 4}, "weights": str(tmp_path)}
    recipe = load_recipe(None, {"model": model, "task": {"name": "classify"}, "preprocess": {"size": [32, 48]}})
    started = new_model(recipe, LEVELS).model.eval()
    x = torch.randn(4, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(started(x)[0], network.model(x)[0])
    others = (LevelSpec(name="label", labels=["a", "b"]),)
    assert not isinstance(new_model(recipe, others).model.exits, EarlyExits)


@pytest.mark.parametrize(
    "change",
    [
        {"after": []},
        {"after": [3, 1]},
        {"after": [0, 1]},
        {"thresholds": [0.5]},
        {"thresholds": [0.5, float("inf")]},
        {"classes": [0]},
        {"width": 10**9},
        {"hidden": -1},
        {"width": 1.5},
        {"more": 1},
    ],
)
def test_a_record_that_lies_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, with_exits())
    meta = json.loads((tmp_path / META).read_text())
    meta["replaced"]["exits"] |= change
    (tmp_path / META).write_text(json.dumps(meta))
    with pytest.raises(DataError):
        load_checkpoint(tmp_path)


def test_goldens_are_photos_that_no_exit_is_in_doubt_about() -> None:
    network = with_exits()
    raw = pictures(network, 8)
    images = np.stack([prepare(image, network.preprocess) for image in raw])
    x = normalise(torch.from_numpy(images), network.preprocess)
    sure = [float(confidence((by_hand(network, one[None])[0].log(),))) for one in x]
    edge = at_thresholds(network, (sorted(sure)[4], NEVER))
    cases = [Case(image, np.array([0]), "", Path()) for image in raw]
    golden = make_golden(edge, cases)
    clear = [i for i, value in enumerate(sure) if abs(value - sorted(sure)[4]) >= LEAST_MARGIN]
    assert len(golden.inputs) == len(clear) == len(golden.truth) < 8
    np.testing.assert_array_equal(golden.inputs, images[clear])
    assert len(golden.sources) == sum(i in clear for i in range(3))
    wanted = answers(pixel_model_of(edge), list(images[clear]))["probs_label"]
    np.testing.assert_allclose(golden.outputs["probs_label"], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exits": (4,)}, "4 is not in front of the last of 4 blocks"),
        ({"exits": (3, 1)}, "must be rising numbers"),
        ({"exits": (0, 1)}, "at least 1"),
        ({"threshold": 1.5, "exits": (1,)}, "threshold must be at least 0 and at most 1"),
        ({"threshold": -0.1, "exits": (1,)}, "threshold must be at least 0 and at most 1"),
        ({"folds": 1, "exits": (1,)}, "folds must be at least 2"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    start = trained("vit_tiny_patch16_224", {**VIT, "depth": 4}, (32, 48))
    with pytest.raises(UsageError, match=message):
        next(early_exit(EarlyExit(**settings), start, Context((), tmp_path)))


def test_exits_are_late_where_none_are_named(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    assert [default_exits(depth) for depth in (12, 6, 3, 2)] == [(8, 10), (4, 5), (2,), (1,)]
    found = next(early_exit(EarlyExit(**QUICK), taught[0], given(taught[1], tmp_path, time=None)))
    depth = taught[0].model.backbone.block_count
    assert found.settings["exits"] == default_exits(depth)
    assert isinstance(found.result, Trained)
    assert found.result.model.exits.after == default_exits(depth)


def test_networks_that_cannot_have_exits_say_so(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    step = EarlyExit(exits=(1,))
    with pytest.raises(UsageError, match="is no classifier on one of our own ViTs"):
        next(early_exit(step, restoring(tmp_path)[0], Context((), tmp_path)))
    with pytest.raises(UsageError, match="has exits already"):
        next(early_exit(step, with_exits(), Context((), tmp_path)))
    with pytest.raises(UsageError, match="no data to train"):
        next(early_exit(step, taught[0], Context((), tmp_path)))
    with pytest.raises(UsageError, match="early exits look at the blocks"):
        prune(Prune(width=16, keep=0.5, epochs=0), with_exits(), given(taught[1], tmp_path / "p"))
    ((planned,),) = plan_slots([{"early_exit": {"exits": [2, 4], "threshold": 0.9}}], "onnxruntime")
    assert planned.config == EarlyExit(exits=(2, 4), threshold=0.9)
    with pytest.raises(UsageError, match="threshold"):
        plan_slots([{"early_exit": {"threshold": "high"}}], "onnxruntime")


def test_other_engines_run_the_same_branches(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from pocketvit.export.openvino import write as write_openvino

    network = at_thresholds(with_exits(), (NEVER, 0.0))
    images = pictures(network, 3)
    built = write_openvino(pixel_model_of(copy_of(network)), network.preprocess.size, tmp_path)
    assert built.varies
    assert '"If"' in built.path.read_text()
    got = run_file(built, images, ["probs_label"], 1)["probs_label"]
    wanted = answers(pixel_model_of(network), list(images))["probs_label"]
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    half = replace(built, precision="bf16")
    assert isinstance(half, Built)
    assert half.varies


def test_exits_are_a_layer_of_their_own() -> None:
    exits = with_exits((0.45, 0.7)).model.exits
    assert isinstance(exits, EarlyExits)
    margins = exits.margin([(torch.tensor([[0.0, 0.0], [4.0, 0.0]]),), (torch.tensor([[1.0, 0.0], [0.0, 0.0]]),)])
    first = torch.sigmoid(torch.tensor(4.0)) - 0.45
    second = 0.7 - torch.sigmoid(torch.tensor(1.0))
    # Both leave at the first exit, the one by 0.05, the other far above; the second exit has no say.
    torch.testing.assert_close(margins, torch.stack([torch.tensor(0.05), first]), atol=1e-6, rtol=0)
    exits.thresholds = (0.55, 0.7)
    waits = exits.margin([(torch.tensor([[0.0, 0.0]]),), (torch.tensor([[1.0, 0.0]]),)])
    torch.testing.assert_close(waits, torch.stack([min(torch.tensor(0.05), second.abs())]), atol=1e-6, rtol=0)
