"""int8 with bf16 for the rest, behind the gain gate: timed and scored on its own, kept or undone by what that says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.bench.timing import Timing
from pocketvit.compress import openvino_int8
from pocketvit.data.collections import load_splits
from pocketvit.errors import VerificationError
from pocketvit.fit.chains import shrink
from pocketvit.fit.measure import Measurer, make_measurer
from pocketvit.fit.rows import Row
from pocketvit.runtimes import openvino as openvino_module
from pocketvit.spec.recipe import load_recipe
from pocketvit.tasks.load import load_checkpoint

from .chain_steps import chain_recipe

STEPS: list[object] = [{"int8": {"products": False}}, "int8-bf16"]


@pytest.fixture
def measurer(data: Path, weights: str) -> Measurer:
    recipe = load_recipe(chain_recipe(data, STEPS, weights, 100), {"search.runtimes": ["openvino"]})
    return make_measurer(load_checkpoint(weights), load_splits(recipe.data, recipe.task.name), recipe)


def rows(measurer: Measurer, folder: Path, patch: pytest.MonkeyPatch, bf16_ms: float) -> dict[str, Row]:
    """What becomes of each file where int8 takes 6 ms, float 8, and int8 with bf16 so many."""
    ms = {"fp32": 8.0, "int8": 6.0, "int8-bf16": bf16_ms}

    def time(self: Measurer, files: list) -> list[Timing]:  # type: ignore[type-arg]
        return [Timing(tuple(ms[file.precision] + turn / 1000 for turn in range(20))) for file in files]

    patch.setattr(Measurer, "time", time)
    return {row.precision: row for row in shrink(measurer, "net", folder, lambda text: None)}


@pytest.mark.slow
def test_it_stays_where_it_is_faster_and_goes_where_it_is_not(
    measurer: Measurer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "BF16" not in openvino_module.capabilities():
        pytest.skip("this processor has no bf16")
    faster = rows(measurer, tmp_path / "a", monkeypatch, 4.0)
    int8, both = faster["int8"], faster["int8-bf16"]
    assert (int8.kept, both.kept) == (True, True)
    assert both.built is not None
    assert int8.built is not None
    assert (both.built.path, both.built.companions) == (int8.built.path, int8.built.companions)
    assert (both.key, both.before, both.gain) == ("openvino:int8-bf16", int8.name, pytest.approx(1.5, rel=0.01))
    assert both.metric is not None
    slower = rows(measurer, tmp_path / "b", monkeypatch, 6.5)
    assert (slower["int8"].kept, slower["int8-bf16"].kept) == (True, False)
    assert "no gain over" in slower["int8-bf16"].reason


@pytest.mark.slow
def test_without_bf16_it_is_not_possible_and_what_the_engine_fails_on_is_told(
    measurer: Measurer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def check(path: Path, *rest: object) -> None:
        seen.append(path.name)
        if len(seen) == 1:
            raise VerificationError(f"openvino crashed on {path.name} (SIGSEGV).", "")

    monkeypatch.setattr(openvino_int8, "check_int8", check)
    monkeypatch.setattr(openvino_module, "capabilities", lambda device="cpu": ("FP32", "INT8"))
    found = rows(measurer, tmp_path, monkeypatch, 4.0)
    assert found["int8"].kept
    told = "; matrix products stay in float: openvino crashed on model-int8.xml (SIGSEGV)"
    assert found["int8"].reason.endswith(told)
    assert not found["int8-bf16"].kept
    why = "not possible here: openvino has no int8-bf16 on the cpu of this machine"
    assert found["int8-bf16"].reason.startswith(why)
