import json
from pathlib import Path

import pytest

from pocketvit.bench.timing import Timing
from pocketvit.data.collections import load_splits
from pocketvit.errors import DataError, UsageError
from pocketvit.fit.measure import budget_image
from pocketvit.fit.plan import (
    Candidate,
    candidates,
    recipe_for,
    start_notes,
    surely_fast,
    time_candidates,
    within_reach,
)
from pocketvit.fit.rows import Row
from pocketvit.spec.recipe import load_recipe

from ..train.helpers import classify_recipe, restore_recipe, write_classes, write_photos


def timed(ms: float, mb: float = 20.0) -> list[Row]:
    return [Row("x", "onnxruntime", "fp32", timing=Timing((ms,) * 20), settings={"bytes": int(mb * 1e6)})]


def test_every_model_is_tried_at_every_size() -> None:
    recipe = load_recipe(None, {"search": {"models": ["vit_tiny_patch16_224", "timm:resnet10t"], "sizes": [160, 224]}})
    keys = [c.key for c in candidates(recipe)]
    assert keys == [f"{m}-{s}x{s}" for m in ("vit_tiny_patch16_224", "timm:resnet10t") for s in (160, 224)]
    with pytest.raises(UsageError, match="vit_tin"):
        candidates(load_recipe(None, {"search.models": ["vit_tinny"]}))


def test_sizes_keep_the_shape_of_the_input() -> None:
    for size, wanted in {(240, 320): (192, 256), (352, 1216): (192, 656), (320, 240): (256, 192)}.items():
        found = candidates(load_recipe(None, {"preprocess": {"size": size}, "search": {"sizes": [192]}}))
        assert [candidate.size for candidate in found] == [wanted]


def test_timms_own_weights_go_to_every_candidate_and_a_files_only_to_its_own() -> None:
    both = {"search.models": ["vit_tiny_patch16_224", "vit_small_patch16_224"]}
    other = Candidate("vit_small_patch16_224", (224, 224))
    own = load_recipe(None, {**both, "model.weights": "timm", "model.options": {"pool": "gap"}})
    assert recipe_for(own, other).model.weights == "timm"
    assert recipe_for(own, other).model.options == {}
    assert start_notes(own) == [
        "model.options are vit_tiny_patch16_224's; vit_small_patch16_224 are built without them"
    ]
    file = load_recipe(None, {**both, "model.weights": "w.safetensors"})
    assert recipe_for(file, other).model.weights is None
    assert recipe_for(file, Candidate("vit_tiny_patch16_224", (160, 160))).model.weights == "w.safetensors"
    (note,) = start_notes(file)
    assert "vit_small_patch16_224 starts from random weights" in note
    assert "vit_tiny" not in note


def test_a_candidate_that_int8_can_save_stays_in_the_race() -> None:
    """The README shows int8 at 3.3 times float: a limit of 10 ms is in reach of 35 ms in float."""
    recipe = load_recipe(None, {"budget.latency_ms": 10, "compress.steps": ["int8"]})
    assert within_reach(timed(35.0), recipe)
    assert not within_reach(timed(45.0), recipe)
    assert not within_reach(timed(35.0), load_recipe(recipe, {"compress.steps": ["bf16"]}))
    assert not surely_fast(timed(35.0), recipe)
    assert surely_fast(timed(9.0), recipe)
    small = load_recipe(None, {"budget.size_mb": 6, "compress.steps": [{"int8": {}}]})
    assert within_reach(timed(1.0, 22.0), small)
    assert not within_reach(timed(1.0, 22.0), load_recipe(small, {"compress.steps": ["fp16"]}))


def test_the_image_that_is_timed_is_the_budgets_and_not_the_first_file(tmp_path: Path) -> None:
    classes = classify_recipe(write_classes(tmp_path / "c", side=40))
    splits = load_splits(classes.data, "classify")
    assert budget_image(classes, splits).shape == (32, 32, 3)  # the recipe's size
    assert budget_image(load_recipe(classes, {"budget.image": [20, 30]}), splits).shape == (20, 30, 3)
    folder = write_photos(tmp_path / "p", 2, side=64)
    for side, name in ((96, "q"), (80, "r"), (100, "s")):
        write_photos(folder / name, 1, side=side)
    photos = restore_recipe(folder)
    assert budget_image(photos, load_splits(photos.data, "restore")).shape == (80, 80, 3)  # the median of five


def test_timings_are_kept_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    recipe = classify_recipe(
        write_classes(tmp_path / "d", per_class=3),
        **{"search.timing_seconds": 0.05, "search.runtimes": ["onnxruntime"]},
    )
    splits = load_splits(recipe.data, "classify")
    told: list[str] = []
    ((candidate, rows),) = time_candidates(recipe, splits, tmp_path, told.append)
    assert candidate.key == "vit_micro_patch16_224-32x32"
    assert rows[0].image == (32, 32)
    assert "on 32x32 with random weights" in rows[0].reason
    assert len(told) == 1
    assert time_candidates(recipe, splits, tmp_path, told.append) == [(candidate, rows)]
    assert len(told) == 1
    (tmp_path / "timing.json").write_text("{")
    with pytest.raises(DataError, match=r"timing.json: cannot be read"):
        time_candidates(recipe, splits, tmp_path, told.append)


def test_a_step_without_a_known_bound_keeps_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketvit.compress.table import STEPS

    from . import chain_steps

    monkeypatch.setattr("pocketvit.compress.table.STEPS", [*STEPS, *chain_steps.KINDS])
    assert within_reach(timed(900.0), load_recipe(None, {"budget.latency_ms": 10, "compress.steps": ["narrow"]}))


def test_timings_of_an_older_version_are_taken_again(tmp_path: Path) -> None:
    recipe = classify_recipe(
        write_classes(tmp_path / "d", per_class=3),
        **{"search.timing_seconds": 0.05, "search.runtimes": ["onnxruntime"]},
    )
    old = [{"runtime": "onnxruntime", "precision": "fp32", "p50": 1.0, "p90": 1.0, "mb": 1.0}]
    (tmp_path / "timing.json").write_text(json.dumps({"vit_micro_patch16_224-32x32": old}))
    ((_, rows),) = time_candidates(recipe, load_splits(recipe.data, "classify"), tmp_path, lambda line: None)
    assert rows[0].timing is not None
    assert len(rows[0].timing.times_ms) >= 15


@pytest.mark.parametrize("overrides", [{"search.models": ["a"]}, {"search": {"sizes": [64]}}, {"train.epochs": 3}])
def test_compress_refuses_what_it_would_ignore(overrides: dict[str, object]) -> None:
    import pocketvit

    with pytest.raises(UsageError, match="has no say"):
        pocketvit.compress(load_recipe(None, {"model.weights": "x"}), name="x", **overrides)
