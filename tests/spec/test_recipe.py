from __future__ import annotations

from pathlib import Path

import numpy as np
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
        ("task: {name: restore, loss: cross_entropy}", "task.loss must be one of auto, l1"),
        ("task: {name: classify, loss: l1}", "task.loss must be one of auto, cross_entropy"),
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
        ("floor: {value: .inf}", "floor.value"),
        ("model: {options: {depth: .inf}}", "model.options"),
        ("compress: {steps: [{int8: {smooth: [.nan]}}]}", "compress.steps"),
        ("train: {lr: .inf}", "train.lr"),
        ("train: {minutes: .inf}", "train.minutes"),
        ("train: {checkpoint_minutes: .inf}", "train.checkpoint_minutes"),
        ("train: {seed: 99999999999999999999}", "train.seed"),
        ("train: {threads: 1000000}", "train.threads"),
        ("train: {epochs: 1000000000000}", "train.epochs"),
        ("train: {batch_size: 1000000000}", "train.batch_size"),
        ("train: {randaugment_magnitude: 31}", "train.randaugment_magnitude"),
        ("data: {eval_sigma: [1.0e+300]}", "data.eval_sigma"),
        ("data: {eval_sigma: [.inf]}", "data.eval_sigma"),
        ("data: {sigma: [0, .inf]}", "data.sigma"),
        ("data: {patch: 100000}", "data.patch"),
        ("data: {patches_per_image: 1000000000}", "data.patches_per_image"),
        ("data: {workers: 100000}", "data.workers"),
        ("target: {threads: 1000000}", "target.threads"),
        ("preprocess: {size: [100000, 100000]}", "preprocess.size"),
        ("preprocess: {mean: [.nan, 0, 0]}", "preprocess.mean"),
        ("preprocess: {std: [.inf, 1, 1]}", "preprocess.std"),
        ("preprocess: {overlap: -1}", "preprocess.overlap"),
        ("budget: {latency_ms: .inf}", "budget.latency_ms"),
        ("budget: {image: [100000, 1]}", "budget.image"),
        ("search: {sizes: [100000]}", "search.sizes"),
        ("search: {timing_seconds: .inf}", "search.timing_seconds"),
        ("compress: {min_speedup: .inf}", "compress.min_speedup"),
        ("task: {level_weights: [.inf]}", "task.level_weights"),
        ("task: {label_smoothing: .nan}", "task.label_smoothing"),
    ],
)
def test_impossible_values_name_their_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text))
    assert caught.value.what.startswith(key)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "what", "example"),
    [
        ("train: {epochs: true}", "train.epochs must be a whole number, not True.", "epochs: 10"),
        ("train: {batch_size: yes}", "train.batch_size must be a whole number, not True.", "batch_size: 32"),
        ("train: {seed: false}", "train.seed must be a whole number, not False.", "seed: 0"),
        ("train: {lr: '0.1'}", "train.lr must be a number, not '0.1'.", "lr: 0.0003"),
        ("train: {lr: true}", "train.lr must be a number, not True.", "lr: 0.0003"),
        ("train: {epochs: 2.5}", "train.epochs must be a whole number, not 2.5.", "epochs: 10"),
        ("train: {channels_last: 1}", "train.channels_last must be true or false, not 1.", "channels_last: true"),
        ("train: {optimizer: adm}", "train.optimizer must be one of adamw, adam, sgd, not 'adm'.", '"adamw"'),
        ("budget: {latency_ms: 33ms}", "budget.latency_ms must be a number, not '33ms'.", "--budget.latency_ms"),
        ("preprocess: {size: 300}", "preprocess.size must be a list of 2 whole numbers, not 300.", "[224, 224]"),
        ("data: {sigma: [a, b]}", "data.sigma must be a list of 2 numbers, not ['a', 'b'].", "[25.0, 25.0]"),
        ("data: {train: [1]}", "data.train must be a list of texts, not [1].", '["name"]'),
        ("data: {class_names: 3}", "data.class_names must be a text, not 3.", "class_names:"),
        ("model: {options: [1]}", "model.options must be a mapping, not [1].", "{}"),
        ("task: {label_smoothing: '0'}", "task.label_smoothing must be a number, not '0'.", "0.0"),
        ("task: {name: [1]}", "unknown task [1].", "classify"),
        ("data: 3", "data must be a mapping, not 3.", "Correct"),
        (f"name: {'x' * 9999}!", "name 'xxxx", "letters"),
        (f"train: {{epochs: {'x' * 9999}}}", "train.epochs must be a whole number, not 'xxx", "10"),
    ],
)
def test_types_are_not_guessed_and_errors_say_what_works(tmp_path: Path, text: str, what: str, example: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text))
    assert caught.value.what.startswith(what)
    assert example in caught.value.todo
    assert len(str(caught.value)) < 300


def test_whole_numbers_pass_for_numbers_and_one_path_for_a_list(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "train: {lr: 1}\ndata: {train: ../photos}\ncompress: {steps: int8}\n"))
    assert (recipe.train.lr, recipe.data.train, recipe.compress.steps) == (1.0, ("../photos",), ("int8",))
    made = load_recipe(None, {"data": {"train": tmp_path, "sigma": np.array([1, 2])}, "train.seed": np.int64(3)})
    assert (made.data.train, made.data.sigma, made.train.seed) == ((str(tmp_path),), (1.0, 2.0), 3)


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
