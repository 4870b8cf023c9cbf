import sys
from pathlib import Path

import pytest

from pocketvit.bench.memory import fresh_run
from pocketvit.errors import VerificationError
from pocketvit.runtimes import probe as module
from pocketvit.runtimes.probe import probe
from pocketvit.spec.target import Target
from tests.tiny import make_tiny_artifact

TARGET = Target("onnxruntime", "fp32", 1)


def interpreter(folder: Path, script: str) -> str:
    """A stand-in for the Python that the probe starts: what an engine that crashes or hangs makes of it."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_a_sound_file_passes_in_a_process_of_its_own(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    file = artifact.path / artifact.manifest.variants[0].path
    probe(file, TARGET, artifact.manifest.preprocess.size)
    with pytest.raises(VerificationError, match="refuses"):
        probe(file, TARGET, (3, 5))


def test_a_module_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    probe(artifact.path / "model.onnx", TARGET, artifact.manifest.preprocess.size)
    assert fresh_run(artifact.path, TARGET).first_ms > 0


def test_the_device_is_probed_too(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(VerificationError, match="has no device phone on this machine"):
        probe(tmp_path / "m.onnx", Target("onnxruntime", "fp32", 1, "phone"), (8, 8))


def test_a_damaged_file_is_refused_with_the_engines_words(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(VerificationError, match=r"onnxruntime refuses m\.onnx"):
        probe(tmp_path / "m.onnx", TARGET, (8, 8))


def test_an_engine_that_crashes_is_named_with_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, "kill -SEGV $$"))
    with pytest.raises(VerificationError, match=r"onnxruntime crashed on m\.onnx \(SIGSEGV\)") as caught:
        probe(tmp_path / "m.onnx", TARGET, (8, 8))
    assert caught.value.exit_code == 4


def test_an_engine_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, "exec sleep 30"))
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    with pytest.raises(VerificationError, match="did not answer"):
        probe(tmp_path / "m.onnx", TARGET, (8, 8))
