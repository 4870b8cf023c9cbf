from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pocketvit.bench.command import bench
from pocketvit.errors import UsageError, VerificationError
from pocketvit.report.command import report
from pocketvit.verify.command import verify
from pocketvit.verify.evaluate import eval as evaluate


def copy_of(halves: Path, half: str, to: Path) -> Path:
    shutil.copytree(halves / "cut1" / half, to)
    return to


def test_each_half_is_verified_by_its_own_goldens(halves: Path, tmp_path: Path) -> None:
    head = verify(str(copy_of(halves, "head", tmp_path / "h")))
    names = [check.name for check in head.checks]
    assert {"parity features", "control: damaged weights", "control: channels swapped"} <= set(names)
    assert not {"metric", "wire"} & set(names)
    tail = verify(str(copy_of(halves, "tail", tmp_path / "t")))
    found = {check.name: check for check in tail.checks}
    assert {"parity probs_fine", "metric", "wire", "control: another network's features"} <= set(found)
    assert 0 < found["wire"].figures["max_abs"] < 0.1
    assert found["parity probs_fine"].figures["max_abs"] < 1e-5 < found["wire"].figures["max_abs"]


@pytest.mark.parametrize(
    ("half", "change"),
    [
        ("tail", {"id": "f" * 32}),  # it would take another head's features
        ("head", {"id": "f" * 32}),
        ("tail", {"bits": 2}),
        ("head", {"after": 2}),
    ],
)
def test_what_binds_the_halves_cannot_be_changed(
    halves: Path, tmp_path: Path, half: str, change: dict[str, Any]
) -> None:
    folder = copy_of(halves, half, tmp_path / "a")
    document = json.loads((folder / "manifest.json").read_text())
    document["split"].update(change)
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(VerificationError, match=f"split.{next(iter(change))} in the manifest is"):
        verify(str(folder))


def test_a_tail_with_the_files_of_another_is_noticed(halves: Path, tmp_path: Path) -> None:
    folder = copy_of(halves, "tail", tmp_path / "a")
    other = halves / "cut2" / "tail"
    shutil.copyfile(other / "tail.onnx", folder / "tail.onnx")
    document, right = (json.loads((place / "manifest.json").read_text()) for place in (folder, other))
    entries = {entry["path"]: entry for entry in right["files"]}
    document["files"] = [entries[e["path"]] if e["path"] == "tail.onnx" else e for e in document["files"]]
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(VerificationError, match="differs from the trained model"):
        verify(str(folder))


@pytest.mark.parametrize("half", ["head", "tail"])
def test_halves_are_not_scored_shown_or_timed_alone(halves: Path, tmp_path: Path, half: str) -> None:
    for call in (
        lambda: evaluate(str(halves / "cut1" / half), str(tmp_path)),
        lambda: report(str(halves / "cut1" / half), out=str(tmp_path)),
        lambda: bench(str(halves / "cut1" / half), seconds=0.1, memory=False),
    ):
        with pytest.raises(UsageError, match=f"is the {half} of a split model"):
            call()
