"""What lies in a run folder: damaged, begun with other data, begun by a recipe that failed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pocketvit
from pocketvit.errors import DataError, PocketvitError, UsageError
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.train.state import STATE

from .helpers import classify_recipe, diverge, restore_recipe, write_classes, write_photos


def train(recipe: Recipe, runs: Path) -> Any:
    return pocketvit.train(recipe, name="r", runs=str(runs), quiet=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A classifier's recipe and its run folder, which goes on behind the first of two epochs."""
    tmp_path = tmp_path_factory.mktemp("first")
    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=4), **{"train.epochs": 2, "train.ema": 0.5})
    reached: list[int] = []

    class Full(Exception):
        pass

    def second(*args: object) -> None:
        if reached:
            raise Full
        reached.append(1)
        real(*args)

    from pocketvit.train import loop

    real, loop._epoch = loop._epoch, second  # type: ignore[assignment]
    try:
        with pytest.raises(Full):
            train(recipe, tmp_path)
    finally:
        loop._epoch = real
    return recipe, tmp_path / "r"


@pytest.fixture
def begun(first: tuple[Recipe, Path], tmp_path: Path) -> tuple[Recipe, Path]:
    """The same with a folder of its own."""
    shutil.copytree(first[1], tmp_path / "r")
    return first[0], tmp_path / "r"


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], Any]:
    def change(state: dict[str, Any]) -> dict[str, Any]:
        inner = state
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to
        return state

    return change


def _first_moment(state: dict[str, Any]) -> dict[str, Any]:
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(7)
    return state


def _no_moment(state: dict[str, Any]) -> dict[str, Any]:
    del state["optimizer"]["state"][0]["exp_avg"]
    return state


def _shadow(state: dict[str, Any]) -> dict[str, Any]:
    state["ema"]["shadow"] = {key: value.flatten()[:1] for key, value in state["ema"]["shadow"].items()}
    return state


def _nan(state: dict[str, Any]) -> dict[str, Any]:
    next(iter(state["model"].values())).fill_(float("nan"))
    return state


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda state: [state],
    "a tensor": lambda state: torch.zeros(3),
    "no model": lambda state: {key: value for key, value in state.items() if key != "model"},
    "model is a list": _set("model", to=[1, 2]),
    "optimiser is a list": _set("optimizer", to=[]),
    "groups without rate": _set("optimizer", "param_groups", 0, to={"params": [0]}),
    "moment of another shape": _first_moment,
    "no moment": _no_moment,
    "average of another shape": _shadow,
    "no average": _set("ema", to=None),
    "weights are NaN": _nan,
    "position is text": _set("position", "epoch", to="one"),
    "position is a list": _set("position", to=[1]),
    "position is NaN": _set("position", "elapsed", to=float("nan")),
    "position is negative": _set("position", "batch", to=-3),
}


@pytest.mark.parametrize("how", [*DAMAGE, "truncated", "empty", "text"])
def test_a_damaged_state_is_named_with_what_to_delete(how: str, begun: tuple[Recipe, Path]) -> None:
    recipe, folder = begun
    file = folder / "last" / STATE
    if how in DAMAGE:
        torch.save(DAMAGE[how](torch.load(file, weights_only=True)), file)
    else:
        file.write_bytes({"truncated": file.read_bytes()[:-500], "empty": b"", "text": b"no state"}[how])
    with pytest.raises(DataError, match=r"state.pt: the training state cannot be used") as caught:
        train(recipe, folder.parent)
    assert str(folder / "last") in caught.value.todo
    if how in DAMAGE:
        return
    shutil.rmtree(folder / "last")
    assert train(recipe, folder.parent).info["epochs"] >= 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a,b\n1,2\n3,4\n", b"epoch,step,images\n\x00\n"])
@pytest.mark.parametrize("name", ["metrics.csv", "recipe.yaml", "data.json"])
def test_a_damaged_file_of_a_run_is_named_with_what_to_delete(
    name: str, content: bytes, begun: tuple[Recipe, Path]
) -> None:
    recipe, folder = begun
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        train(recipe, folder.parent)
    assert "elete" in caught.value.todo
    if name != "recipe.yaml":
        (folder / name).unlink()
        train(recipe, folder.parent)


@pytest.mark.parametrize("document", [[], {}, {"files": 3}, {"files": {"labels": [], "train": [1]}}])
def test_a_list_of_files_of_another_shape_is_named(document: Any, begun: tuple[Recipe, Path]) -> None:
    recipe, folder = begun
    (folder / "data.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"data.json: cannot be read"):
        train(recipe, folder.parent)


def test_a_run_that_goes_on_has_the_data_that_it_began_with(begun: tuple[Recipe, Path]) -> None:
    recipe, folder = begun
    red = Path(recipe.data.train[0]) / "red"
    for i in range(4):
        (red / f"new{i}.png").write_bytes((red / "0.png").read_bytes() + bytes([i + 1]))  # no copies
    with pytest.raises(DataError, match=r"4 photos are added, e\.g\. red/new") as caught:
        train(recipe, folder.parent)
    assert "another --name" in caught.value.todo
    for file in red.glob("new*"):
        file.unlink()
    (red / "0.png").rename(folder / "0.png")
    with pytest.raises(DataError, match=r"1 photo is gone, e\.g\. red/0.png"):
        train(recipe, folder.parent)
    (red / "0.png").write_bytes((red / "1.png").read_bytes() + b" " * 100)
    with pytest.raises(DataError, match="1 photo is of another size"):
        train(recipe, folder.parent)
    (folder / "0.png").rename(red / "0.png")
    write_photos(red.parent / "pink", 4)
    with pytest.raises(DataError, match="class 'pink' was added"):
        train(recipe, folder.parent)
    shutil.rmtree(red.parent / "pink")
    assert train(recipe, folder.parent).info["epochs"] >= 1


def test_a_run_without_a_checkpoint_does_not_claim_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = restore_recipe(write_photos(tmp_path / "d", 3), **{"train.epochs": 1})
    with monkeypatch.context() as patch:
        diverge(patch)
        with pytest.raises(PocketvitError, match="NaN") as caught:
            train(load_recipe(good, {"train.lr": 100.0}), tmp_path)
    assert "Lower train.lr" in caught.value.todo
    write_photos(tmp_path / "d", 4)
    assert train(good, tmp_path).info["train_images"] == 4


def test_what_an_error_advises_may_change_and_nothing_else(
    begun: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from pocketvit.train import loop

    recipe, folder = begun
    other = load_recipe(recipe, {"train.lr": 0.001})
    with pytest.raises(UsageError, match=r"train\.lr: 0\.003 -> 0\.001"):
        train(other, folder.parent)
    todo = "Lower train.lr, set train.clip_norm, or set train.precision to fp32; the last checkpoint is intact."

    def nan(*_: object) -> Callable[[object], float]:
        def step(_: object) -> float:
            raise PocketvitError("the loss became NaN at step 1.", todo)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_make_step", nan)
        with pytest.raises(PocketvitError, match="NaN"):
            train(recipe, folder.parent)
    with pytest.raises(UsageError, match=r"train\.weight_decay"):
        train(load_recipe(other, {"train.weight_decay": 0.5}), folder.parent)
    pocketvit.train(other, name="r", runs=str(folder.parent))
    assert "goes on with train.lr: 0.003 -> 0.001" in capfd.readouterr().err
    assert "goes on; train.lr: 0.003 -> 0.001" in (folder / "run.log").read_text()


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"train.precision": "fp16"}, UsageError, "fp16 needs a GPU"),
        ({"train.epochs": 0}, UsageError, r"no model\.weights"),
        ({"task.class_weights": "odd"}, UsageError, "class_weights"),
    ],
)
def test_a_refused_recipe_makes_no_run_folder(
    fields: dict[str, Any], error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = write_classes(tmp_path / "d", per_class=4)
    for command in (pocketvit.train, pocketvit.fit):
        with pytest.raises(error, match=words):
            command(classify_recipe(data, **fields), name="r", runs=str(tmp_path), quiet=True)
        assert not (tmp_path / "r").exists()


def test_a_refusal_in_the_middle_leaves_no_new_folder_and_keeps_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=4), **{"train.epochs": 1})

    def refuse(*_: object) -> None:
        raise UsageError("refused.", "Do otherwise.")

    with monkeypatch.context() as patched:
        patched.setattr("pocketvit.train.loop._fabric", refuse)
        with pytest.raises(UsageError, match="refused"):
            train(recipe, tmp_path)
        assert not (tmp_path / "r").exists()
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match="refused"):
            train(recipe, tmp_path)
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"


def test_one_class_is_refused(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "d", per_class=4)
    shutil.rmtree(data / "green")
    shutil.rmtree(data / "blue")
    for command in (pocketvit.train, pocketvit.fit):
        with pytest.raises(DataError, match=r"one class only \(red\)"):
            command(classify_recipe(data), name="r", runs=str(tmp_path), quiet=True)


@pytest.mark.parametrize("part", ["train", "val"])
def test_damaged_photos_are_found_before_anything_is_timed_or_trained(part: str, tmp_path: Path) -> None:
    folders = {name: write_photos(tmp_path / name, 3) for name in ("train", "val")}
    for name in ("x.png", "y.png"):
        (folders[part] / name).write_bytes(b"no image " + name.encode())
    recipe = restore_recipe(folders["train"], **{"data.val": [str(folders["val"])], "train.epochs": 1})
    for command in (pocketvit.train, pocketvit.fit):
        with pytest.raises(DataError, match=r"x.png: cannot be decoded.* 2 images cannot be used") as caught:
            command(recipe, name="r", runs=str(tmp_path), quiet=True)
        assert "doctor" in caught.value.todo
        assert not (tmp_path / "r" / "last").exists()
        assert not (tmp_path / "r" / "timing").exists()
    assert pocketvit.doctor(str(folders[part]), quarantine=True).exit_code == 0
    assert train(recipe, tmp_path).info["train_images"] == 3


def test_what_is_odd_in_the_data_is_said_when_training_begins(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_classes(tmp_path / "d", per_class=4)
    (data / "pocketvit-quarantine.txt").write_text("red/0.png\nred/1.png\nred/2.png\n")
    report = pocketvit.train(classify_recipe(data, **{"train.epochs": 1}), name="r", runs=str(tmp_path))
    said = ["3 quarantined images are left out.", "1 classes have no image in val: red."]
    assert all(note in report.to_dict()["notes"] for note in said)
    told = capfd.readouterr().err
    assert all(f"note: {note}" in told for note in said)
    assert told.index("note:") < told.index("train epoch 1")


def test_an_option_taken_away_is_another_recipe(begun: tuple[Recipe, Path]) -> None:
    recipe, folder = begun
    document = yaml.safe_load((folder / "recipe.yaml").read_text())
    document["model"]["options"] = {**recipe.model.options, "pool": "gap"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(UsageError, match=r"another recipe \(model\.options\.pool: gap -> "):
        train(recipe, folder.parent)


def test_checkpoints_without_their_recipe_are_not_gone_on_with(begun: tuple[Recipe, Path]) -> None:
    recipe, folder = begun
    (folder / "recipe.yaml").unlink()
    with pytest.raises(DataError, match=r"recipe\.yaml is not there"):
        train(recipe, folder.parent)


@pytest.mark.parametrize("name", ["", "model.json", "model.safetensors"])
def test_a_run_whose_best_model_is_gone_says_so_at_once(name: str, begun: tuple[Recipe, Path]) -> None:
    recipe, folder = begun
    gone = folder / "best" / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(DataError, match="best") as caught:
        train(recipe, folder.parent)
    assert f"Delete {folder / 'last'}" in caught.value.todo
    shutil.rmtree(folder / "last")
    assert train(recipe, folder.parent).info["epochs"]


def test_damaged_advice_changes_nothing(begun: tuple[Recipe, Path]) -> None:
    recipe, folder = begun
    (folder / "advised.json").write_text('{"fields": 5}')
    other = load_recipe(recipe, {"train.lr": 0.5})
    with pytest.raises(UsageError, match=r"another recipe \(train\.lr"):
        train(other, folder.parent)


def test_a_name_too_long_for_a_folder_is_refused(begun: tuple[Recipe, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        pocketvit.train(begun[0], name="a" * 300, runs=str(tmp_path), quiet=True)


def test_an_infinite_loss_ends_before_the_weights_are_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketvit.train import loop

    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=4))
    record = loop.TORCH_TASKS[recipe.task.name]
    infinite = replace(record, loss=lambda *given: record.loss(*given) * float("inf"))
    monkeypatch.setitem(loop.TORCH_TASKS, recipe.task.name, infinite)
    with pytest.raises(PocketvitError, match="the loss became infinite at step 0"):
        train(recipe, tmp_path)


def test_validation_photos_that_are_also_trained_on_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_photos(tmp_path / "d", 3)
    recipe = restore_recipe(data, **{"data.val": [str(data)], "train.epochs": 1})
    report = pocketvit.train(recipe, name="r", runs=str(tmp_path))
    (note,) = (note for note in report.to_dict()["notes"] if "both" in note or "also" in note)
    assert note in capfd.readouterr().err.replace("\n", " ")
