"""A runtime that is added from test code alone goes through export, verify, bench and load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from pocketvit.bench.command import bench
from pocketvit.errors import UsageError, VerificationError
from pocketvit.runtimes import RUNTIMES, check_target, open_session
from pocketvit.runtimes.model import load
from pocketvit.spec.artifact import Artifact, file_entries, read_artifact, write_manifest
from pocketvit.spec.manifest import Variant
from pocketvit.spec.target import Target
from pocketvit.verify.command import ChecksFailed, verify
from tests import numpy_runtime
from tests.threads import answers_of_threads
from tests.tiny import SIZE, coloured, make_tiny_artifact, photo


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "numpy", numpy_runtime.RUNTIME)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """The tiny classifier with a second variant for NumPy."""
    made = make_tiny_artifact(tmp_path / "a", "classify")
    numpy_runtime.from_onnx(onnx.load(made.path / "model.onnx"), made.path / "model.npz")
    variants = [*made.manifest.variants, Variant(runtime="numpy", precision="fp32", path="model.npz")]
    changed = made.manifest.model_copy(update={"variants": variants, "files": file_entries(made.path)})
    write_manifest(made.path, changed)
    return read_artifact(made.path)


def test_load_answers_as_the_other_engine_does(artifact: Artifact) -> None:
    ours, theirs = load(artifact.path, "numpy:fp32:1"), load(artifact.path, "onnxruntime")
    for label in range(4):
        mine, other = ours(coloured(label)), theirs(coloured(label))
        assert mine.path == other.path
        assert mine.levels[1].score == pytest.approx(other.levels[1].score, abs=1e-5)


def test_verify_checks_it_and_notices_damage(artifact: Artifact) -> None:
    report = verify(str(artifact.path))
    of_numpy = {check.name: check for check in report.checks if check.variant == "numpy:fp32"}
    assert report.passed
    assert of_numpy["control: damaged weights"].passed
    assert not of_numpy["control: damaged weights"].skipped
    assert "numpy" in of_numpy["opens"].detail


def test_bench_times_it_beside_another(artifact: Artifact) -> None:
    report = bench(
        str(artifact.path), target="onnxruntime", other_target="numpy", size="40x56", seconds=0.05, memory=False
    )
    assert [result.variant for result in report.results] == ["onnxruntime:fp32", "numpy:fp32"]
    assert report.ratio is not None


def test_an_engine_that_is_not_thread_safe_runs_one_at_a_time(artifact: Artifact) -> None:
    session = open_session(artifact.path / "model.npz", Target("numpy"))
    pictures = [photo(*SIZE, seed=i) for i in range(4)]
    expected = [session.run({"pixels": picture[None]}) for picture in pictures]
    for index, answer in answers_of_threads(session, pictures, calls=80):
        np.testing.assert_array_equal(answer["probs_fine"], expected[index]["probs_fine"])


def test_our_own_error_in_damaging_is_no_refusal(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_call(path: Path, target: Target, manifest: object) -> object:
        session = numpy_runtime.open_file(path, target)
        if path.parent != artifact.path:  # the damaged copy
            session.run = lambda inputs, missing: {}  # type: ignore[method-assign]
        return session

    monkeypatch.setitem(RUNTIMES, "numpy", replace(numpy_runtime.RUNTIME, open=wrong_call))
    with pytest.raises(TypeError, match="missing"):
        verify(str(artifact.path), target="numpy")
    monkeypatch.setitem(RUNTIMES, "numpy", replace(numpy_runtime.RUNTIME, damage=lambda: None))
    with pytest.raises(TypeError):
        verify(str(artifact.path), target="numpy")


def test_the_engines_refusal_of_a_damaged_file_counts(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    junk = replace(numpy_runtime.RUNTIME, damage=lambda files: files[0].write_bytes(b"junk"))
    monkeypatch.setitem(RUNTIMES, "numpy", junk)
    report = verify(str(artifact.path), target="numpy")
    (control,) = (check for check in report.checks if check.name == "control: damaged weights")
    assert "it does not run" in control.detail
    monkeypatch.setitem(RUNTIMES, "numpy", replace(numpy_runtime.RUNTIME, damage=lambda files: None))
    with pytest.raises(ChecksFailed, match="could not tell damaged weights"):
        verify(str(artifact.path), target="numpy")


def test_what_it_does_not_offer_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="numpy has no bf16 on the cpu of this machine"):
        check_target(Target("numpy", "bf16"))
    with pytest.raises(UsageError, match="numpy has no device cuda") as caught:
        check_target(Target("numpy", device="cuda"))
    assert "cpu" in caught.value.todo
    with pytest.raises(UsageError, match="unknown runtime 'nunpy'") as caught:
        load(artifact.path, "nunpy:fp32")
    assert caught.value.todo == "Did you mean numpy?"
    (tmp_path / "m.npz").write_bytes(b"junk")
    with pytest.raises(VerificationError, match="NumPy cannot open it"):
        open_session(tmp_path / "m.npz", Target("numpy"))


@pytest.mark.slow
def test_export_writes_its_format(tmp_path: Path) -> None:
    from pocketvit.export.artifact import make_golden, pixel_model_of
    from pocketvit.export.check import check_parity
    from pocketvit.export.formats import exporter
    from tests.export.nets import cases, classifier

    trained = classifier()
    golden = make_golden(trained, cases("classify"), 2)
    built = exporter("numpy")(pixel_model_of(trained), trained.preprocess.size, tmp_path, "net")
    assert exporter("npz") is exporter("numpy")
    assert (built.key, built.path.name) == ("numpy:fp32", "net.npz")
    assert check_parity(built, golden, {"max_abs": 1e-4})["min_cosine"] > 0.9999
    with pytest.raises(UsageError, match="unknown format 'np'") as caught:
        exporter("np")
    assert "onnx, openvino, torchscript, npz" in caught.value.todo
