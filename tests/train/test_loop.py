import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pocketvit
from pocketvit.data.cases import eval_cases
from pocketvit.data.collections import load_splits
from pocketvit.errors import DataError, PocketvitError, UsageError
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.metrics import psnr
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.classify import ClassifyEvaluator
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import new_model
from pocketvit.train import loop
from pocketvit.train.history import read_rows
from pocketvit.train.loop import resolve_precision, train_model
from pocketvit.train.state import STATE
from tests.zygote import Zygote

from .helpers import classify_recipe, diverge, restore_recipe, write_classes, write_photos


def run(recipe, folder: Path, **options):
    splits = load_splits(recipe.data, recipe.task.name)
    return train_model(new_model(recipe, splits.train.levels), splits, recipe, folder, **options)


def curve(folder: Path) -> list[tuple[float, ...]]:
    return [
        (r["epoch"], r["step"], r["train_loss"], *(r[k] for k in sorted(r) if "@" in k or "top1" in k))
        for r in read_rows(folder / "metrics.csv")
    ]


def test_a_restorer_learns_to_denoise_and_leaves_curves(tmp_path: Path) -> None:
    recipe = restore_recipe(write_photos(tmp_path / "photos"), **{"train.epochs": 5})
    best = run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert [r["epoch"] for r in rows] == [1, 2, 3, 4, 5]
    noisy = np.mean(
        [psnr(case.image, case.truth) for case in eval_cases(load_splits(recipe.data, "restore").val, recipe.data)]
    )
    assert rows[-1]["psnr@sigma25"] > noisy + 0.4
    assert best.info["best_value"] == pytest.approx(max(r["psnr@sigma25"] for r in rows))
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000


def test_curves_are_drawn_at_the_end_and_no_oftener_than_they_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(loop, "draw_curves", lambda rows, *_: drawn.append(len(rows)))
    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=4), **{"train.epochs": 4})
    run(recipe, tmp_path / "run", stop_epoch=2)
    run(recipe, tmp_path / "run")
    assert drawn == [2, 4]
    monkeypatch.setattr(loop, "DRAW_S", 0.0)
    run(recipe, tmp_path / "other")
    assert drawn[2:] == [1, 2, 3, 4]


def test_a_restorer_learns_to_deblur(tmp_path: Path) -> None:
    blur = {"probability": 1, "shake": 0, "defocus_size": [4, 4]}
    recipe = restore_recipe(write_photos(tmp_path / "photos"), **{"train.epochs": 8})
    recipe = load_recipe(recipe, {"data.noise": "none", "data.blur": blur, "train.lr": 0.01})
    run(recipe, tmp_path / "run")
    rows, val = read_rows(tmp_path / "run" / "metrics.csv"), load_splits(recipe.data, "restore").val
    blurred = np.mean([psnr(case.image, case.truth) for case in eval_cases(val, recipe.data)])
    assert rows[-1]["psnr@defocus"] > blurred + 0.4


def test_a_classifier_learns_three_colours(tmp_path: Path) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "c"), **{"train.epochs": 6})
    assert run(recipe, tmp_path / "run").info["metrics"]["label.top1"] >= 90


@pytest.mark.parametrize("task", ["restore", "classify"])
def test_stopping_between_epochs_and_going_on_changes_nothing(tmp_path: Path, task: str) -> None:
    make = restore_recipe if task == "restore" else classify_recipe
    data = write_photos(tmp_path / "d") if task == "restore" else write_classes(tmp_path / "d")
    recipe = make(data, **{"train.epochs": 3, "train.ema": 0.8, "train.augment": "crop", "train.accumulate": 2})
    run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "parts", stop_epoch=1)
    run(recipe, tmp_path / "parts")
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    a, b = (load_checkpoint(tmp_path / name / "last").model.state_dict() for name in ("parts", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_rung_between_validations_has_a_best_model_and_the_losses_of_a_whole_run(tmp_path: Path) -> None:
    recipe = classify_recipe(
        write_classes(tmp_path / "d"),
        **{"train.epochs": 4, "train.validate_every": 2, "train.ema": 0.8, "train.patience": 1},
    )
    run(recipe, tmp_path / "whole")
    rung = run(recipe, tmp_path / "parts", stop_epoch=1)
    assert rung.info["epochs"] == 1
    assert rung.info["best_value"] == rung.info["metrics"]["label.top1"]
    run(recipe, tmp_path / "parts", stop_epoch=3)
    run(recipe, tmp_path / "parts")
    whole, parts = (read_rows(tmp_path / name / "metrics.csv") for name in ("whole", "parts"))
    assert [row["train_loss"] for row in parts] == [row["train_loss"] for row in whole]
    assert ["label.top1" in row for row in whole] == [(row["epoch"] % 2 == 0) for row in whole]
    assert "label.top1" in parts[0]
    assert [row["label.top1"] for row in parts if row["epoch"] % 2 == 0] == [
        row["label.top1"] for row in whole if "label.top1" in row
    ]


def test_patience_does_not_count_the_extra_validation_of_a_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {1: 90.0, 2: 50.0, 3: 95.0, 4: 60.0, 5: 0.0, 6: 70.0}
    monkeypatch.setattr(loop, "_validate", lambda run, *_: {"label.top1": values[run.position.epoch]})
    recipe = classify_recipe(
        write_classes(tmp_path / "d", per_class=4),
        **{"train.epochs": 6, "train.validate_every": 2, "train.patience": 1},
    )
    for end in (1, 3):
        assert run(recipe, tmp_path / "run", stop_epoch=end).info["epochs"] == end
    best = run(recipe, tmp_path / "run")
    assert len(read_rows(tmp_path / "run" / "metrics.csv")) == 6  # 50, 60, 70 at the scheduled epochs: never stale
    assert best.info["best_value"] == 95.0


def test_the_state_holds_the_gradient_scaler_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=4), **{"train.epochs": 2})
    run(recipe, tmp_path / "plain", stop_epoch=1)
    assert torch.load(tmp_path / "plain" / "last" / STATE, weights_only=True)["precision"] == {}
    # No fp16 on a CPU: the precision plugin of fp32 plays one that has a state.
    from lightning.fabric.plugins import Precision  # here, where Fabric has been imported without the rest of Lightning

    given: list[dict[str, float]] = []
    monkeypatch.setattr(Precision, "state_dict", lambda self: {"scale": 1024.0, "growth_interval": 2000})
    monkeypatch.setattr(Precision, "load_state_dict", lambda self, state: given.append(state))
    run(recipe, tmp_path / "scaled", stop_epoch=1)
    assert given == []
    run(recipe, tmp_path / "scaled")
    assert given == [{"scale": 1024.0, "growth_interval": 2000}]


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_gives_the_same_loss_curve(tmp_path: Path, zygote: Zygote) -> None:
    photos = write_photos(tmp_path / "d")
    recipe = restore_recipe(
        photos, **{"train.epochs": 2, "train.checkpoint_steps": 2, "train.threads": 1, "data.patches_per_image": 40}
    )
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    given = f"{str(tmp_path / 'r.yaml')!r}, name='killed', runs={str(tmp_path)!r}, quiet=True"
    process = zygote.start(f"import pocketvit; pocketvit.train({given})", tmp_path / "log")
    state = tmp_path / "killed" / "last" / STATE
    killed_at = None
    while killed_at is None and process.poll() is None:
        if state.exists():
            try:
                position = torch.load(state, weights_only=True)["position"]
            except (EOFError, RuntimeError, OSError):
                continue
            if position["batch"] >= 4:
                assert process.kill() == -signal.SIGKILL, process.log.read_text()
                killed_at = position
        time.sleep(0.005)
    assert killed_at is not None, process.log.read_text()
    assert not (tmp_path / "killed" / "finished.json").exists()
    pocketvit.train(tmp_path / "r.yaml", name="killed", runs=str(tmp_path), quiet=True)
    pocketvit.train(tmp_path / "r.yaml", name="whole", runs=str(tmp_path), quiet=True)
    assert len(curve(tmp_path / "whole")) == 2
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")


def test_a_finished_run_is_never_overwritten_and_a_changed_recipe_is_refused(tmp_path: Path) -> None:
    recipe = restore_recipe(write_photos(tmp_path / "d"), **{"train.epochs": 1})
    report = pocketvit.train(recipe, name="a", runs=str(tmp_path), quiet=True)
    assert report.to_dict()["checkpoint"].endswith("best")
    with pytest.raises(UsageError, match="is finished"):
        pocketvit.train(recipe, name="a", runs=str(tmp_path), quiet=True)
    (tmp_path / "a" / "finished.json").unlink()
    with pytest.raises(UsageError, match=r"train\.lr: 0\.003 -> 0\.5"):
        pocketvit.train(recipe, name="a", runs=str(tmp_path), quiet=True, **{"train.lr": 0.5})


def test_patience_stops_and_minutes_end_the_schedule(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "d")
    run(classify_recipe(data, **{"train.epochs": 50, "train.patience": 2, "train.lr": 1e-9}), tmp_path / "a")
    assert len(read_rows(tmp_path / "a" / "metrics.csv")) <= 4
    run(
        classify_recipe(data, **{"train.epochs": 5000, "train.minutes": 0.05, "train.validate_every": 100}),
        tmp_path / "b",
    )
    rows = read_rows(tmp_path / "b" / "metrics.csv")
    assert rows[-1]["lr"] < 0.7 * 0.003  # a busy machine may do its last step long before the time is up
    assert len(rows) < 5000


def test_minutes_are_wall_time_with_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> dict[str, float]:
        time.sleep(0.3)
        return {"label.top1": 50.0}

    monkeypatch.setattr(loop, "_validate", slow)
    recipe = classify_recipe(write_classes(tmp_path / "d", 4), **{"train.epochs": 5000, "train.minutes": 0.04})
    run(recipe, tmp_path / "run", stop_epoch=2)
    began = time.monotonic()
    best = run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert rows[0]["seconds"] >= 0.3  # the first epoch's validation is in it
    assert time.monotonic() - began < 20  # with a validation of 0.3 s after each short epoch not counted: half a minute
    assert best.info["minutes"] == pytest.approx(rows[-1]["seconds"] / 60, abs=0.002)
    assert 1.5 < rows[-1]["seconds"] < 16


def test_the_best_model_and_patience_follow_the_direction_of_the_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distance(ClassifyEvaluator):
        main = "mistake_distance"

        def __init__(self, levels: Sequence[LevelSpec]) -> None:
            pass

    record = replace(TASKS["classify"], evaluator=lambda levels, condition: Distance(levels))
    monkeypatch.setitem(TASKS, "classify", record)
    values = {1: 0.5, 2: 0.2, 3: 0.4, 4: 0.3, 5: 0.1}
    monkeypatch.setattr(loop, "_validate", lambda run, *_: {"mistake_distance": values[run.position.epoch]})
    data = write_classes(tmp_path / "d", per_class=4)
    best = run(classify_recipe(data, **{"train.epochs": 5, "train.patience": 2}), tmp_path / "run")
    assert (best.info["epochs"], best.info["best_value"]) == (2, 0.2)
    assert len(read_rows(tmp_path / "run" / "metrics.csv")) == 4


def test_whole_numbers_stay_whole_in_the_metrics_of_a_resumed_run(tmp_path: Path) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=4), **{"train.epochs": 2})
    run(recipe, tmp_path / "run", stop_epoch=1)
    first = (tmp_path / "run" / "metrics.csv").read_text()
    run(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.csv").read_text().startswith(first)
    assert first.splitlines()[1].startswith("1,1,9,")


def test_notes_on_the_data_are_in_the_report_of_train(tmp_path: Path) -> None:
    data = str(write_classes(tmp_path / "d", per_class=4))
    recipe = classify_recipe(tmp_path / "d", **{"train.epochs": 1, "data.train": [data, data]})
    report = pocketvit.train(recipe, name="r", runs=str(tmp_path), quiet=True)
    note = "12 repeated images are left out: the first mention counts."
    assert report.to_dict()["notes"] == [note]
    assert f"note: {note}" in report.render()
    assert report.info["train_images"] == 9


def test_fine_tuning_keeps_the_backbone_and_makes_a_new_head(tmp_path: Path) -> None:
    run(classify_recipe(write_classes(tmp_path / "three"), **{"train.epochs": 1}), tmp_path / "first")
    four = write_classes(tmp_path / "four")
    (four / "blue").rename(four / "sky")
    for name in ("a", "b"):
        (four / "green" / f"{name}.png").write_bytes((four / "green" / "0.png").read_bytes())
    (four / "leaf").mkdir()
    for i in range(6):
        (four / "green" / f"{i}.png").rename(four / "leaf" / f"{i}.png")
    recipe = classify_recipe(four, **{"model.weights": str(tmp_path / "first")})
    splits = load_splits(recipe.data, "classify")
    started = new_model(recipe, splits.train.levels)
    assert "new heads" in started.info["start"]
    first = load_checkpoint(tmp_path / "first").model
    assert torch.equal(started.model.backbone.blocks[1].mlp.fc2.weight, first.backbone.blocks[1].mlp.fc2.weight)
    assert started.model.heads[0].out_features == 4
    levels = load_splits(classify_recipe(tmp_path / "three").data, "classify").train.levels
    same = new_model(classify_recipe(tmp_path / "three", **{"model.weights": str(tmp_path / "first" / "best")}), levels)
    assert torch.equal(same.model.heads[0].weight, first.heads[0].weight)


def test_distillation_pulls_the_student_towards_the_teacher(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "d")
    run(classify_recipe(data, **{"train.epochs": 4}), tmp_path / "teacher")
    recipe = classify_recipe(
        data,
        **{"train.epochs": 4, "train.teacher": str(tmp_path / "teacher"), "train.distill_weight": 1.0, "train.seed": 5},
    )
    student = run(recipe, tmp_path / "student")
    assert student.info["metrics"]["label.top1"] >= 60  # weight 1: no label was used in the loss


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_other_optimisers_schedules_and_switches_train(tmp_path: Path, optimizer: str) -> None:
    recipe = classify_recipe(
        write_classes(tmp_path / "d"),
        **{
            "train": {
                "epochs": 3,
                "batch_size": 9,
                "optimizer": optimizer,
                "schedule": "linear",
                "clip_norm": None,
                "precision": "bf16",
                "channels_last": False,
            },
            "train.augment": "randaugment",
            "train.lr": 0.01,
            "train.validate_every": 2,
            "task.class_weights": "balanced",
            "task.label_smoothing": 0.1,
        },
    )
    run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert "label.top1" not in rows[0]
    assert "label.top1" in rows[1]


def test_out_of_memory_says_which_batch_size_to_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> float:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(loop, "_make_step", lambda *_: explode)
    with pytest.raises(PocketvitError) as caught:
        run(restore_recipe(write_photos(tmp_path / "d")), tmp_path / "run")
    assert "train.batch_size 8" in caught.value.what
    assert "--train.batch_size 4 --train.accumulate 2" in caught.value.todo


def test_a_loss_of_nan_stops_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverge(monkeypatch)
    with pytest.raises(PocketvitError, match="NaN"):
        run(restore_recipe(write_photos(tmp_path / "d")), tmp_path / "run")


def test_damaged_state_images_and_settings_are_explained(tmp_path: Path) -> None:
    recipe = restore_recipe(write_photos(tmp_path / "d"), **{"train.epochs": 1})
    run(recipe, tmp_path / "run", stop_epoch=1)
    (tmp_path / "run" / "last" / STATE).write_bytes(b"not a state")
    with pytest.raises(DataError, match="cannot be used"):
        run(recipe, tmp_path / "run")
    file = tmp_path / "d" / "00.png"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=r"00\.png"):
        run(recipe, tmp_path / "other")
    with pytest.raises(UsageError, match="GPU"):
        resolve_precision(restore_recipe(tmp_path / "d", **{"train.precision": "fp16"}).train, cuda=False)
    assert resolve_precision(restore_recipe(tmp_path / "d").train, cuda=False) == "32-true"
    with pytest.raises(UsageError, match="works at one size"):
        new_model(restore_recipe(tmp_path / "d", **{"model": {"name": "vit_tiny_patch16_224", "options": {}}}), ())


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = restore_recipe(write_photos(tmp_path / "d"), **{"train.epochs": 2})
    run(recipe, tmp_path / "run", stop_epoch=1)
    before = (tmp_path / "run" / "last" / STATE).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match="No space left"):
        run(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "last" / STATE).read_bytes() == before
    monkeypatch.undo()
    assert run(recipe, tmp_path / "run").info["epochs"] >= 1
