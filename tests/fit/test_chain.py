"""Steps that chain: a model step and a file step from test code, in both orders, one rejected, killed and resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml

import pocketvit
from pocketvit.compress.table import STEPS
from pocketvit.fit.result import FitReport
from pocketvit.fit.rows import Row
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.golden import read_golden
from pocketvit.tasks.load import load_checkpoint
from tests.zygote import Zygote

from . import chain_steps


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvit.compress.table.STEPS", [*STEPS, *chain_steps.KINDS])


def fit(data: Path, steps: list[object], weights: str, runs: Path, max_drop: float = 40) -> FitReport:
    recipe = chain_steps.chain_recipe(data, steps, weights, max_drop)
    return pocketvit.fit(recipe, name="k", runs=str(runs), quiet=True)


def by_step(report: FitReport) -> dict[str, Row]:
    return {row.step or "float": row for row in report.rows}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [["drop_blocks", "half"], ["half", "drop_blocks"]])
def test_a_model_step_and_a_file_step_chain_in_both_orders(
    data: Path, weights: str, tmp_path: Path, steps: list[object]
) -> None:
    report = fit(data, [steps[0], "wreck", {steps[1]: {}}], weights, tmp_path)
    rows = by_step(report)
    assert [rows[name].kept for name in ("float", *steps)] == [True, True, True]
    assert not rows["wreck"].kept
    assert "below the floor" in rows["wreck"].reason
    # What did not pay is undone: the step behind it starts from the state before.
    assert rows["wreck"].before == rows[steps[0]].name
    assert rows[steps[1]].before == rows[steps[0]].name
    last = rows[steps[1]]
    assert last.name.endswith(f"onnxruntime:{steps[0]} > {steps[1]}")
    assert report.chosen == last.name
    assert rows["float"].bytes > rows[steps[0]].bytes > last.bytes
    narrowed = load_checkpoint(last.model)
    assert len(narrowed.model.backbone.blocks) == 1
    assert len(load_checkpoint(weights).model.backbone.blocks) == 2
    artifact = read_artifact(report.artifact)
    assert artifact.manifest.verification is not None
    assert artifact.manifest.verification.passed
    lineage = {step.step.rpartition(" > ")[2].rpartition(":")[2]: step for step in artifact.manifest.lineage}
    assert lineage["drop_blocks"].settings == {"count": 1}
    assert lineage["half"].settings == {"least": 64}
    assert [lineage[name].kept for name in (*steps, "wreck")] == [True, True, False]
    golden = read_golden(artifact)
    answer = pocketvit.load(report.artifact)(golden.sources[0])
    wanted = int(np.argmax(golden.outputs["probs_label"][0]))
    assert answer.levels[0].index == wanted


@pytest.mark.slow
def test_two_model_steps_leave_the_network_of_the_last_one_and_names_of_their_own(
    data: Path, weights: str, tmp_path: Path
) -> None:
    report = fit(data, [{"narrow": {"share": 0.5}}, {"narrow": {"share": 0.25}}], weights, tmp_path, 100)
    first, second = (row for row in report.rows if row.step)
    assert [first.step, second.step] == ["narrow", "narrow (2)"]
    assert len({row.name for row in report.rows}) == len(report.rows)
    assert first.kept
    assert second.kept, second.reason
    hidden = [load_checkpoint(row.model).model.backbone.blocks[0].mlp.fc1.out_features for row in (first, second)]
    assert hidden == [64, 16]
    assert report.chosen == second.name
    assert pocketvit.verify(str(report.artifact)).passed


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_shrinking_goes_on_at_the_step_it_was_in(
    data: Path, weights: str, tmp_path: Path, zygote: Zygote
) -> None:
    recipe = chain_steps.chain_recipe(data, ["drop_blocks", "wreck", {"half": {"least": 32}}], weights)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    code = f"from tests.fit.chain_steps import main; main({str(tmp_path / 'r.yaml')!r}, {str(tmp_path)!r})"
    first = zygote.start(code, tmp_path / "log", {chain_steps.DIE: str(tmp_path / "died")})
    assert first.wait() == -signal.SIGKILL, first.log.read_text()[-2000:]
    files = tmp_path / "k" / "files"
    before = {path: path.read_bytes() for path in files.rglob("row.json")}
    assert sorted(path.parent.name for path in before) == ["drop_blocks", "drop_blocks+wreck", "float"]
    assert not (tmp_path / "k" / "artifact").exists()
    pocketvit.fit(tmp_path / "r.yaml", name="k", runs=str(tmp_path), quiet=True)
    assert {path: path.read_bytes() for path in before} == before
    done = json.loads((tmp_path / "k" / "finished.json").read_text())
    assert done["chosen"].endswith("drop_blocks > half")
    assert pocketvit.verify(str(tmp_path / "k")).passed


def test_a_step_that_nothing_kept_can_start_from_says_so(data: Path, weights: str, tmp_path: Path) -> None:
    from pocketvit.compress.step import StepKind

    kind = StepKind("late", chain_steps.Half, chain_steps.half, "file", "onnxruntime", ("bf16",))
    STEPS.append(kind)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pocketvit.compress.table.STEPS", STEPS)
            rows = by_step(fit(data, ["late"], weights, tmp_path))
    finally:
        STEPS.remove(kind)
    assert not rows["late"].kept
    assert "nothing that it could start from" in rows["late"].reason
