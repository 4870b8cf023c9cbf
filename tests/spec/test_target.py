from __future__ import annotations

import pytest

from pocketvit.bench.memory import parse_size
from pocketvit.errors import UsageError
from pocketvit.runtimes.model import default_target
from pocketvit.spec import target as module
from pocketvit.spec.target import Target
from pocketvit.verify.command import verify
from pocketvit.verify.evaluate import eval as evaluate
from tests.tiny import make_tiny_artifact


def test_threads_are_bounded_by_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: 3)
    assert Target.parse("onnxruntime:fp32:12").threads == 12
    for threads in ("13", "100000", "9" * 30, "9" * 5000):
        with pytest.raises(UsageError, match=r"threads are too many|no thread count"):
            Target.parse(f"onnxruntime:fp32:{threads}")


def test_an_artifact_timed_on_a_larger_machine_is_run_with_what_is_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    artifact = make_tiny_artifact(tmp_path_factory.mktemp("threads") / "a")
    variant = artifact.variant()
    row = type("Row", (), {"variant": variant.key, "threads": 500})
    manifest = artifact.manifest.model_copy(update={"benchmarks": [row]})
    monkeypatch.setattr(module, "available_cores", lambda: 3)
    assert default_target(manifest, variant).threads == 12


@pytest.mark.parametrize("text", ["100000x100000", "1x999999999999", "²x3", "٣x4", "0x5", "1_0x5", "9" * 5000 + "x1"])
def test_sizes_that_no_picture_has(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_size(text)


@pytest.mark.parametrize("limit", [-5, 0])
def test_limits_are_refused_before_anything_is_read(limit: int) -> None:
    for command in (evaluate, verify):
        with pytest.raises(UsageError, match="limit must be at least 1"):
            command("no artifact", data="no data", limit=limit)
