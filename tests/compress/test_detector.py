"""Steps that change the network, on one whose head reads the token of every patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvit.compress.early_exit import EarlyExit, early_exit
from pocketvit.compress.low_rank import Factorise, low_rank
from pocketvit.compress.merge_tokens import MergeTokens, merge_tokens
from pocketvit.compress.prune_structured import Prune, prune
from pocketvit.data.collections import load_splits
from pocketvit.errors import UsageError
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks.load import at_size, load_checkpoint
from pocketvit.tasks.start import new_model
from pocketvit.train.validate import run_batch
from tests import detect_data
from tests.compress.training import given


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Recipe]:
    """A detector with random weights, and photos to prune by."""
    root = detect_data.coco(tmp_path_factory.mktemp("boxes") / "d", 12)
    options = {"embed_dim": 32, "depth": 3, "num_heads": 4, "patch_size": 16}
    sections = {
        "data": {"train": [str(root)], "layout": "coco", "val_share": 0.3},
        "model": {"name": "vit_micro_patch16_224", "options": options},
        "task": {"name": "detect", "head_width": 32},
        "preprocess": {"size": [64, 96], "resize": "stretch"},
        "train": {"batch_size": 4, "augment": "none", "precision": "fp32", "threads": 1},
    }
    recipe = load_recipe(None, sections)
    return new_model(recipe, load_splits(recipe.data, "detect").train.levels), recipe


def outputs(trained: Trained) -> list[np.ndarray]:
    height, width = trained.preprocess.size
    photos = np.stack([detect_data.scene(seed, height, width)[0] for seed in range(2)])
    return run_batch(trained, photos)


def test_it_is_pruned_in_heads_channels_blocks_and_width_and_lives_on(
    start: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    trained, recipe = start
    settings = {"keep": 0.7, "epochs": 0, "images": 8, "blocks": 1, "width": 16, "multiple": 8}
    report = prune(Prune(**settings), trained, given(recipe, tmp_path / "p"))  # type: ignore[arg-type]
    network = report.result
    assert isinstance(network, Trained)
    sizes = [sum(p.numel() for p in x.model.parameters()) for x in (trained, network)]
    assert sizes[1] < 0.6 * sizes[0]
    assert "channels" in report.told  # of the head
    assert report.notes["rounds"][0]["class_only"] is False
    save_checkpoint(tmp_path / "c", network)
    loaded = load_checkpoint(tmp_path / "c")
    for one, other in zip(outputs(network), outputs(loaded), strict=True):
        np.testing.assert_array_equal(one, other)
    heat, sides = outputs(at_size(loaded, (96, 128)))
    assert (heat.shape, sides.shape) == ((2, 2, 12, 16), (2, 4, 12, 16))


def test_a_pruned_detector_is_trained_on(start: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = start
    step = Prune(keep=0.8, epochs=1, images=8, multiple=8, lr=1e-3)
    network = prune(step, trained, given(recipe, tmp_path)).result
    assert isinstance(network, Trained)
    assert all(np.isfinite(x).all() for x in outputs(network))


def test_its_layers_are_factorised(start: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = start
    network = low_rank(Factorise(energy=0.9, epochs=0), trained, given(recipe, tmp_path)).result
    assert isinstance(network, Trained)
    assert all(np.isfinite(x).all() for x in outputs(network))


def test_tokens_of_patches_are_neither_merged_nor_left_early(start: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = start
    with pytest.raises(UsageError, match=r"the head of task\.name detect reads the token of every patch"):
        merge_tokens(MergeTokens(), trained, given(recipe, tmp_path))
    with pytest.raises(UsageError, match=r"compress\.steps\.early_exit"):
        next(iter(early_exit(EarlyExit(), trained, given(recipe, tmp_path))))
