from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvit.errors import VerificationError
from pocketvit.spec import parity
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.golden import read_golden
from pocketvit.spec.target import PRECISIONS
from pocketvit.spec.tasks import TASKS
from tests.tiny import make_tiny_artifact


@pytest.fixture
def classifier(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "a", "classify")


def test_relative_differences_are_shares_of_each_goldens_mean() -> None:
    golden = np.stack([np.full((2, 3), 2.0), np.full((2, 3), 40.0)])
    figures = parity.compare(golden * 1.1, golden, relative=True)
    assert (figures["max_abs"], figures["mean_abs"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert parity.compare(golden * 1.1, golden)["max_abs"] == pytest.approx(4.0)


def test_figures_of_known_arrays() -> None:
    golden = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    figures = parity.compare(np.array([[0.0, 1.0], [0.0, 1.0]], np.float32), golden)
    assert figures == {"max_abs": 1.0, "mean_abs": 0.75, "min_cosine": 0.0, "mean_cosine": 0.5}
    assert parity.compare(golden, golden) == {"max_abs": 0.0, "mean_abs": 0.0, "min_cosine": 1.0, "mean_cosine": 1.0}
    zeros = np.zeros((1, 3), np.float32)
    assert parity.compare(zeros, zeros)["min_cosine"] == 1.0
    assert parity.compare(zeros, zeros + 1)["min_cosine"] == 0.0


def test_nan_meets_no_limit() -> None:
    golden = np.ones((2, 3), np.float32)
    figures = parity.compare(np.full((2, 3), np.nan, np.float32), golden)
    limits = {"max_abs": 1e9, "min_cosine": -1.0}
    assert len(parity.violations(figures, limits, parity.PER_OUTPUT)) == 2


@pytest.mark.parametrize("name", parity.UPPER + parity.LOWER)
def test_each_limit_is_held_on_its_side(name: str) -> None:
    better, worse = (0.4, 0.6) if name in parity.UPPER else (0.6, 0.4)
    assert parity.violations({name: 0.5}, {name: 0.5}, [name]) == []
    assert parity.violations({name: better}, {name: 0.5}, [name]) == []
    assert name in parity.violations({name: worse}, {name: 0.5}, [name])[0]


def test_every_task_and_precision_has_limits() -> None:
    for task in ("restore", "classify"):
        assert set(TASKS[task].tolerances) == set(PRECISIONS)
        assert "metric_drop" in TASKS[task].tolerances["int8"]
        assert "max_abs" not in TASKS[task].tolerances["int8"]
        assert TASKS[task].tolerances["fp32"]["max_abs"] < TASKS[task].tolerances["bf16"]["max_abs"]


def test_int8_with_bf16_for_the_rest_is_judged_as_int8_and_nothing_is_judged_by_no_limit(classifier: Artifact) -> None:
    assert parity.tolerances(classifier.manifest, "int8-bf16") == TASKS["classify"].tolerances["int8"]
    stated = classifier.manifest.model_copy(update={"tolerances": {"int8-bf16": {"mean_cosine": 0.94}}})
    with pytest.raises(VerificationError, match="looser than"):
        parity.tolerances(stated, "int8-bf16")
    stated = classifier.manifest.model_copy(update={"tolerances": {"int4": {"mean_cosine": 0.5}}})
    with pytest.raises(VerificationError, match="has no limits for the precision int4"):
        parity.tolerances(stated, "int4")


def test_the_manifest_states_limits(classifier: Artifact) -> None:
    assert parity.tolerances(classifier.manifest, "bf16") == TASKS["classify"].tolerances["bf16"]
    stated = classifier.manifest.model_copy(update={"tolerances": {"bf16": {"max_abs": 0.01}}})
    assert parity.tolerances(stated, "bf16") == TASKS["classify"].tolerances["bf16"] | {"max_abs": 0.01}
    assert parity.tolerances(stated, "int8") == TASKS["classify"].tolerances["int8"]
    wrong = classifier.manifest.model_copy(update={"tolerances": {"bf16": {"max_abss": 0.01}}})
    with pytest.raises(VerificationError, match=r"tolerances\.bf16\.max_abss"):
        parity.tolerances(wrong, "bf16")
    for loose in ({"max_abs": 0.31}, {"min_cosine": 0.94}, {"min_agreement": float("nan")}):
        looser = classifier.manifest.model_copy(update={"tolerances": {"bf16": loose}})
        with pytest.raises(VerificationError, match=f"tolerances.bf16.{next(iter(loose))} .* looser than"):
            parity.tolerances(looser, "bf16")


def test_task_figures_count_lost_answers(classifier: Artifact) -> None:
    golden = read_golden(classifier)
    same = parity.task_figures(classifier.manifest, golden.outputs, golden)
    assert same == {"metric": 100.0, "metric_drop": 0.0, "min_agreement": 100.0}
    outputs = {name: value.copy() for name, value in golden.outputs.items()}
    outputs["probs_fine"][0] = [0.001, 0.997, 0.001, 0.001]  # red becomes yellow in one of eight
    assert parity.task_figures(classifier.manifest, outputs, golden) == {
        "metric": 87.5,
        "metric_drop": 12.5,
        "min_agreement": 87.5,
    }
    found = parity.parity_violations(classifier.manifest, outputs, golden, TASKS["classify"].tolerances["int8"])
    assert any(text.startswith("metric_drop 12.5") for text in found)


def test_restoration_loses_decibels(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    golden = read_golden(artifact)
    worse = {
        "restored": np.clip(
            golden.outputs["restored"] + np.random.default_rng(0).normal(0, 20, golden.outputs["restored"].shape),
            0,
            255,
        ).astype(np.float32)
    }
    figures = parity.task_figures(artifact.manifest, worse, golden)
    assert figures["metric_drop"] > 1
    assert "min_agreement" not in figures
    same = {"restored": golden.truth.astype(np.float32)}
    assert (
        parity.task_figures(artifact.manifest, same, golden)["metric"] == 100.0
    )  # equal pixels are capped, so that every figure is finite
    perfect = type(golden)(golden.inputs, same, (), golden.truth, golden.preprocess)
    assert parity.task_figures(artifact.manifest, same, perfect)["metric_drop"] == 0.0
