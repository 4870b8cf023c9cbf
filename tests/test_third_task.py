"""The proof that a task is one record in each of two tables: one added here goes through every command."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from pocketvit.commands import COMMANDS
from pocketvit.errors import UsageError, VerificationError
from pocketvit.export.artifact import answers, create_artifact, make_golden, pixel_model_of
from pocketvit.export.card import write_card
from pocketvit.export.check import check_parity
from pocketvit.export.formats import exporter
from pocketvit.models.trained import Trained
from pocketvit.report.data import CandidateRow, ReportData
from pocketvit.report.html import limits
from pocketvit.report.plots import pareto_plot
from pocketvit.runtimes.model import load
from pocketvit.spec.artifact import Artifact, write_manifest
from pocketvit.spec.golden import read_golden
from pocketvit.spec.images import write_image
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import ModelConfig, load_recipe
from pocketvit.tasks.load import build_task_model
from tests import third_task
from tests.tiny import coloured


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    third_task.add(monkeypatch)
    return third_task.make_artifact(tmp_path / "a")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i in range(4):
        write_image(tmp_path / "photos" / f"{i}.png", coloured(i, seed=i))
    return tmp_path / "photos"


def shown(report: object) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(report.render())  # type: ignore[attr-defined]
    return text.getvalue()


def test_verify_with_its_controls_and_a_metric_that_is_better_when_lower(artifact: Artifact, photos: Path) -> None:
    report = COMMANDS["verify"].resolve()(str(artifact.path), data=str(photos))
    assert report.passed
    assert {"control: damaged weights", "control: channels swapped"} <= {c.name for c in report.checks if not c.skipped}
    assert report.checks[-1].figures["value"] < 4.2
    stated = artifact.manifest.metrics[0].model_copy(update={"value": -8.0})  # far better than it is
    write_manifest(artifact.path, artifact.manifest.model_copy(update={"metrics": [stated]}))
    with pytest.raises(VerificationError, match=r"allowed at most -5\.00 steps"):
        COMMANDS["verify"].resolve()(str(artifact.path), data=str(photos))


def test_eval_names_unit_and_interval(artifact: Artifact, photos: Path) -> None:
    report = COMMANDS["eval"].resolve()(str(artifact.path), str(photos))
    model = load(artifact.path)
    errors = [
        np.abs(model(coloured(i, seed=i)).colour - coloured(i, seed=i).mean(axis=(0, 1))).mean() for i in range(4)
    ]
    assert report.metrics == {"error": pytest.approx(np.mean(errors), abs=1e-4)}
    assert (report.main_metric, report.rows[0].unit, report.count) == ("error", "steps", 4)
    assert "steps" in shown(report)


def test_bench(artifact: Artifact) -> None:
    report = COMMANDS["bench"].resolve()(
        str(artifact.path), seconds=0.05, memory=False
    )  # a fresh process does not know the task
    assert "onnxruntime:fp32" in shown(report)


def test_predict_writes_a_table(artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    report = COMMANDS["predict"].resolve()(str(artifact.path), [str(photos)], out=str(tmp_path / "answers.csv"))
    rows = list(csv.DictReader((tmp_path / "answers.csv").open()))
    assert list(rows[0]) == ["image", "red", "green", "blue"]
    assert float(rows[3]["blue"]) > 150 > float(rows[3]["red"])
    assert "rgb " in shown(report)
    with pytest.raises(UsageError, match="is a picture"):
        COMMANDS["predict"].resolve()(str(artifact.path), [str(photos)], out="a.png")


def test_report_and_card(artifact: Artifact, tmp_path: Path) -> None:
    text = (
        COMMANDS["report"].resolve()(str(artifact.path), out=str(tmp_path / "r.html")).path.read_text(encoding="utf-8")
    )
    assert text.count("<figure>") == 6
    assert "error 1.20 steps (1.00 to 1.40, 6 photos) of onnxruntime:fp32" in text
    assert "down is better" in pareto_plot(
        [CandidateRow("a", 1.2, 3.0, 4.0, 1.0, None, "fits")], metric_label="error", higher_is_better=False
    )
    assert limits(ReportData("t", "mean_colour", "error", "steps", floor={"value": 2.0, "max_drop": None})) == [
        "error at most 2 steps"
    ]
    card = write_card(artifact.manifest)
    assert "says the mean colour of photographs" in card
    assert "1.20 steps (1.00 to 1.40)" in card
    assert "model(image).colour" in card


def test_recipe_has_the_tasks_own_section(artifact: Artifact) -> None:
    recipe = load_recipe(None, {"task": {"name": "mean_colour", "scale": 2}})
    assert recipe.task == third_task.MeanColourConfig(scale=2.0)
    assert load_recipe(recipe).task == recipe.task
    with pytest.raises(UsageError, match=r"task\.label_smoothing does not go with task.name mean_colour"):
        load_recipe(recipe, {"task.label_smoothing": 0.1})


def test_a_trained_model_becomes_an_artifact(artifact: Artifact, tmp_path: Path) -> None:
    spec = Preprocess(size=(32, 32), resize="stretch")
    config = ModelConfig("vit_tiny_patch16_224", {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8})
    torch.manual_seed(0)
    settings = third_task.MeanColourConfig()
    trained = Trained(build_task_model(config, settings, (), spec).eval(), config, settings, (), spec)
    cases = [third_task_case(i) for i in range(3)]
    golden = make_golden(trained, cases)
    assert golden.truth.shape == (3, 3)
    built = exporter("onnx")(pixel_model_of(trained), spec.size, tmp_path, "net")
    check_parity(built, golden, third_task.RECORD.tolerances["fp32"])
    made = create_artifact(trained, tmp_path / "b", name="b", golden=golden, built=[built])
    assert (made.manifest.main_metric, made.manifest.outputs[0].name) == ("error", "colour")
    assert read_golden(made).outputs.keys() == {"colour"}
    wanted = answers(pixel_model_of(trained), golden.inputs[:1])["colour"]
    np.testing.assert_allclose(load(made.path)(cases[0].image).colour, wanted[0], atol=0.01)


class third_task_case:
    def __init__(self, label: int) -> None:
        self.image = coloured(label, seed=label)
        self.truth = third_task.RECORD.truth(self.image, None, ())
        self.condition = ""
