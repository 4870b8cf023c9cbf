from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pocketvit.errors import UsageError
from pocketvit.spec.budget import Budget
from pocketvit.spec.recipe import Recipe, load_recipe


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "r.yaml").write_text(text)
    return tmp_path / "r.yaml"


def test_defaults_and_round_trip(tmp_path: Path) -> None:
    recipe = load_recipe(None)
    assert recipe == Recipe()
    again = load_recipe(write(tmp_path, yaml.safe_dump(recipe.to_dict())))
    assert again == recipe
    assert load_recipe(write(tmp_path, "")) == recipe


def test_overrides_nested_dotted_and_as_dataclass(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {epochs: 3, lr: 0.01}\nbudget: {latency_ms: 5}\n")
    recipe = load_recipe(path, {"train": {"epochs": 4}, "budget.size_mb": 2, "data.sigma": [0, 50]})
    assert (recipe.train.epochs, recipe.train.lr) == (4, 0.01)
    assert (recipe.budget.latency_ms, recipe.budget.size_mb) == (5, 2)
    assert recipe.data.sigma == (0.0, 50.0)
    assert load_recipe(recipe, {"budget": Budget(memory_mb=7)}).budget == Budget(memory_mb=7)


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("budget: {latency: 3}", "budget.latency", "budget.latency_ms"),
        ("trian: {}", "trian", "train"),
        ("train: {learning_rate: 1, epoch: 3}", "train.learning_rate", ""),
        ("train: {epoch: 3}", "train.epoch", "train.epochs"),
        ("preprocess: {sizes: [1, 1]}", "preprocess.sizes", "preprocess.size"),
        ("compress: {step: [int8]}", "compress.step", "compress.steps"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path: Path, text: str, key: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text))
    assert caught.value.what == f"unknown key {key}."
    assert nearest in caught.value.todo
    assert caught.value.exit_code == 2


def test_unknown_override_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown key train\.epochz") as caught:
        load_recipe(None, {"train.epochz": 1})
    assert caught.value.todo == "Did you mean train.epochs?"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {epochs: many}", "train.epochs"),
        ("data: {layout: zip}", "data.layout"),
        ("train: {batch_size: 0}", "train.batch_size"),
        ("train: {ema: 1.5}", "train.ema"),
        ("task: {name: restore, loss: cross_entropy}", "does not go with"),
        ("task: {name: classify, loss: l1}", "does not go with"),
        ("budget: {latency_ms: -1}", "budget.latency_ms"),
        ("data: {sigma: [50, 10]}", "data.sigma"),
        ("data: {val_share: 1}", "val_share"),
        ("- a\n- b", "not a list"),
        ("a: [", "not valid YAML"),
        ("train: 3", "train"),
    ],
)
def test_wrong_values_are_usage_errors_that_name_the_field(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text))
    assert says in caught.value.what


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("name: ../up", "name"),
        ("name: ''", "name"),
        ('name: "a\\n"', "name"),
        ("name: -a", "name"),
        ("compress: {calibration_images: 0}", "compress.calibration_images"),
        ("compress: {min_speedup: 0}", "compress.min_speedup"),
        ("compress: {min_shrink: -1}", "compress.min_shrink"),
        ("compress: {max_float_layers: -1}", "compress.max_float_layers"),
        ("search: {trials: 0}", "search.trials"),
        ("search: {rung_epochs: 0}", "search.rung_epochs"),
        ("search: {sizes: [64, 0]}", "search.sizes"),
        ("search: {timing_seconds: 0}", "search.timing_seconds"),
        ("search: {timing_seconds: .nan}", "search.timing_seconds"),
        ("search: {eval_images: 0}", "search.eval_images"),
        ("search: {runtimes: []}", "search.runtimes"),
        ("train: {threads: 0}", "train.threads"),
        ("train: {minutes: 0}", "train.minutes"),
        ("train: {distill_temperature: 0}", "train.distill_temperature"),
        ("train: {seed: -1}", "train.seed"),
        ("train: {crop_scale: [0, 1]}", "train.crop_scale"),
        ("train: {crop_scale: [0.9, 0.5]}", "train.crop_scale"),
        ("train: {crop_scale: [0.5, 1.5]}", "train.crop_scale"),
        ("train: {betas: [0.9, 1]}", "train.betas"),
        ("train: {betas: [-0.1, 0.9]}", "train.betas"),
        ("train: {clip_norm: 0}", "train.clip_norm"),
        ("train: {patience: 0}", "train.patience"),
        ("train: {checkpoint_minutes: 0}", "train.checkpoint_minutes"),
        ("train: {checkpoint_steps: 0}", "train.checkpoint_steps"),
        ("train: {min_lr: 1.5}", "train.min_lr"),
        ("train: {jitter: 1}", "train.jitter"),
        ("train: {randaugment_magnitude: -1}", "train.randaugment_magnitude"),
        ("train: {weight_decay: -0.1}", "train.weight_decay"),
        ("train: {lr: .nan}", "train.lr"),
        ("train: {epochs: -1}", "train.epochs"),
        ("task: {level_weights: [1, -1]}", "task.level_weights"),
        ("task: {level_weights: [0, 0]}", "task.level_weights"),
        ("task: {name: restore, label_smoothing: 0.1}", "task.label_smoothing"),
        ("task: {name: restore, class_weights: balanced}", "task.class_weights"),
        ("data: {eval_sigma: []}", "data.eval_sigma"),
        ("data: {eval_sigma: [15, -1]}", "data.eval_sigma"),
        ("data: {shot: [0.2, 0.1]}", "data.shot"),
        ("data: {shot: [-0.1, 0.1]}", "data.shot"),
        ("data: {sigma: [.nan, 10]}", "data.sigma"),
        ("floor: {max_drop: -1}", "floor.max_drop"),
    ],
)
def test_impossible_values_name_their_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text))
    assert caught.value.what.startswith(key)
    assert caught.value.exit_code == 2


def test_values_at_the_edge_are_accepted(tmp_path: Path) -> None:
    text = """
name: a.B_c-1
train: {epochs: 0, patience: 1, threads: 1, minutes: 0.1, crop_scale: [1, 1], betas: [0, 0.9], clip_norm: null,
        min_lr: 1, jitter: 0, randaugment_magnitude: 0, weight_decay: 0}
compress: {calibration_images: 1, max_float_layers: 0, min_speedup: 0.5, steps: []}
search: {trials: 1, rung_epochs: 1, eval_images: 1, sizes: [1]}
task: {level_weights: [0, 1]}
data: {eval_sigma: [0], shot: [0, 0]}
floor: {max_drop: 0}
"""
    recipe = load_recipe(write(tmp_path, text))
    assert (
        recipe.name,
        recipe.train.epochs,
        recipe.train.clip_norm,
        recipe.floor.max_drop,
        recipe.data.eval_sigma,
    ) == ("a.B_c-1", 0, None, 0, (0.0,))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_recipe(tmp_path / "b.yaml")


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid YAML"):
        load_recipe(write(tmp_path, "a: !!python/object/apply:os.system ['true']"))


@pytest.mark.parametrize(
    ("fields", "words"), [({"target.precision": "bf16", "compress.steps": ["int8"]}, "target.precision bf16")]
)
def test_a_target_that_no_step_leads_to_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_recipe(None, fields)


def test_merging_never_changes_the_callers_dicts() -> None:
    shared = {"floor": {"max_drop": 60}, "floor.metric": "ssim"}
    assert load_recipe(None, shared).floor.metric == "ssim"
    assert shared == {"floor": {"max_drop": 60}, "floor.metric": "ssim"}
