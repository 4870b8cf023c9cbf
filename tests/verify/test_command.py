from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

import pocketvit
from pocketvit.errors import MissingDependencyError, UsageError, VerificationError
from pocketvit.runtimes import openvino as openvino_module
from pocketvit.spec.artifact import Artifact, file_entries, pack, read_artifact, write_manifest
from pocketvit.spec.golden import read_golden, write_golden
from pocketvit.spec.images import write_image
from pocketvit.spec.manifest import Variant
from pocketvit.verify import checks, command
from pocketvit.verify.checks import run_checks
from pocketvit.verify.command import ChecksFailed, verify
from tests.tiny import TILE, coloured, make_tiny_artifact, noisy, photo, restore_onnx


@pytest.fixture(params=["restore", "classify"])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "artifact", request.param)


def reseal(artifact: Artifact, **changes: object) -> Artifact:
    """Write sizes and checksums anew, as someone would who changes a file and covers it up."""
    write_manifest(
        artifact.path, artifact.manifest.model_copy(update={"files": file_entries(artifact.path), **changes})
    )
    return read_artifact(artifact.path)


def failing(artifact: Artifact, **options: object) -> ChecksFailed:
    with pytest.raises(VerificationError) as caught:
        verify(str(artifact.path), **options)
    assert caught.value.exit_code == 4
    assert isinstance(caught.value, ChecksFailed)
    stored = read_artifact(artifact.path).manifest.verification
    assert stored is not None
    assert stored.passed is False
    return caught.value


def test_a_whole_artifact_passes_and_records_it(artifact: Artifact) -> None:
    report = verify(str(artifact.path))
    assert report.passed
    assert report.recorded
    assert report.exit_code == 0
    stored = read_artifact(artifact.path).manifest.verification
    assert stored.passed
    assert stored.tool_version == pocketvit.__version__
    names = [check.name for check in report.checks]
    assert (
        names.index("file model.onnx")
        < names.index("preprocessing")
        < names.index("opens")
        < names.index("finite")
        < names.index("control: damaged weights")
    )
    assert {"control: damaged weights", "control: channels swapped", "control: other normalisation"} <= set(names)
    assert [row["name"] for row in stored.checks] == names
    assert verify(str(artifact.path)).passed  # recording does not break it


def test_the_package_is_callable_and_the_report_prints(artifact: Artifact) -> None:
    report = pocketvit.verify(str(artifact.path))
    lines = report.render().splitlines()
    assert lines[0] == f"{artifact.manifest.name}: verified, recorded in the manifest."
    count = sum(check.variant == "onnxruntime:fp32" for check in report.checks)
    assert any(line.split() == f"onnxruntime:fp32 {count} of {count} checks passed".split() for line in lines)
    assert len(lines) < 8 < len(report.checks)
    text = io.StringIO()
    Console(file=text, width=160).print(report.details())
    assert all(check.name in text.getvalue() and check.detail in text.getvalue() for check in report.checks)
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True


def test_one_changed_byte_is_named(artifact: Artifact) -> None:
    path = artifact.path / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    error = failing(artifact)
    assert "model.onnx was changed: its sha256" in error.what
    assert not any(check.variant for check in error.report.checks)  # nothing is run on damaged files


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "card.md"])
def test_a_truncated_file_is_named(artifact: Artifact, name: str) -> None:
    path = artifact.path / name
    path.write_bytes(path.read_bytes()[:-3])
    assert f"{name} is truncated" in failing(artifact).what


def test_longer_and_missing_files(artifact: Artifact) -> None:
    with (artifact.path / "card.md").open("ab") as file:
        file.write(b"more")
    assert "card.md is too long" in failing(artifact).what
    (artifact.path / "model.onnx").unlink()
    error = failing(artifact)
    assert {"card.md is too long: 11 bytes, the manifest says 7", "model.onnx is missing"} == {
        check.detail for check in error.report.failures
    }
    assert "(and 1 more)" in error.what


def test_a_needed_file_that_is_not_listed(artifact: Artifact) -> None:
    write_manifest(
        artifact.path,
        artifact.manifest.model_copy(update={"files": [e for e in artifact.manifest.files if e.path != "model.onnx"]}),
    )
    assert "model.onnx is needed but not listed" in failing(artifact).what


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", [0.4, 0.4, 0.4]),
        ("std", [0.3, 0.3, 0.3]),
        ("color", "BGR"),
        ("interpolation", "nearest"),
        ("crop_pct", 0.8),
    ],
)
def test_a_changed_preprocessing_is_named(artifact: Artifact, field: str, value: object) -> None:
    path = artifact.path / "manifest.json"
    document = json.loads(path.read_text())
    document["preprocess"][field] = value
    path.write_text(json.dumps(document))
    error = failing(artifact)
    assert f"preprocess.{field} in the manifest is" in error.what
    assert "the golden outputs were made with" in error.what


def test_a_damaged_manifest_is_refused(artifact: Artifact) -> None:
    (artifact.path / "manifest.json").write_text("{")
    with pytest.raises(VerificationError, match=r"manifest\.json"):
        verify(str(artifact.path))


def test_other_weights_fail_parity_although_the_checksums_fit(artifact: Artifact) -> None:
    model = onnx.load(artifact.path / "model.onnx")
    weight = next(x for x in model.graph.initializer if x.name in ("kernel", "w_fine"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(0.9), weight.name))
    onnx.save(model, artifact.path / "model.onnx")
    error = failing(reseal(artifact))
    assert "differs from the trained model: max_abs" in error.what
    assert "(onnxruntime:fp32)" in error.what


def test_nan_is_found(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    model = onnx.load(artifact.path / "model.onnx")
    weight = next(x for x in model.graph.initializer if x.name == "w_fine")
    weight.CopyFrom(numpy_helper.from_array(np.full((3, 4), np.nan, np.float32), "w_fine"))
    onnx.save(model, artifact.path / "model.onnx")
    assert "output probs_fine holds NaN" in failing(reseal(artifact)).what


def test_ports_that_differ_from_the_manifest(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    restore_onnx(artifact.path / "model.onnx", size=(24, 24))
    assert (
        "input pixels of the file is uint8 (1, 24, 24, 3), the manifest says uint8 (1, 48, 64, 3)"
        in failing(reseal(artifact)).what
    )


def test_a_file_that_does_not_open(artifact: Artifact) -> None:
    (artifact.path / "model.onnx").write_bytes(b"junk" * 10)
    assert "ONNX Runtime cannot open it" in failing(reseal(artifact)).what


def test_sources_must_give_the_stored_pixels(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    golden = read_golden(artifact)
    changed = golden.sources[0].copy()
    changed[:, :, 0] //= 2
    write_golden(artifact.path, replace(golden, sources=(golden.sources[0], changed)))
    assert "preprocessing golden source 1 differs from the stored input by up to" in failing(reseal(artifact)).what


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: {"inputs": g.inputs[:, :8]}, "the golden inputs are uint8"),
        (lambda g: {"truth": g.truth[:2]}, "2 ground truths for"),
        (lambda g: {"outputs": {"other": next(iter(g.outputs.values()))}}, "the goldens hold outputs ['other']"),
        (lambda g: {"outputs": {k: v[:, :1] for k, v in g.outputs.items()}}, "golden output"),
        (lambda g: {"outputs": {k: v * np.float32(np.nan) for k, v in g.outputs.items()}}, "holds NaN"),
    ],
)
def test_goldens_that_do_not_fit_the_manifest(artifact: Artifact, change, says: str) -> None:
    golden = read_golden(artifact)
    write_golden(artifact.path, replace(golden, **change(golden)))
    assert says in failing(reseal(artifact)).what


def test_int8_is_judged_by_the_metric(tmp_path: Path) -> None:
    """The same slightly different file passes as int8, whose metric holds, and fails as fp32."""
    artifact = make_tiny_artifact(tmp_path / "a")
    restore_onnx(artifact.path / "int8.onnx", blur=0.42)
    variants = [*artifact.manifest.variants, Variant(runtime="onnxruntime", precision="int8", path="int8.onnx")]
    sealed = reseal(artifact, variants=variants)
    assert verify(str(sealed.path)).passed
    bad = reseal(artifact, variants=[Variant(runtime="onnxruntime", precision="fp32", path="int8.onnx")])
    assert "max_abs" in failing(bad).what
    restore_onnx(artifact.path / "int8.onnx", blur=-1.5)
    error = failing(reseal(artifact, variants=variants))
    assert "(onnxruntime:int8)" in error.what


def test_a_check_that_cannot_tell_fails_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.parity, "tolerances", lambda manifest, precision: {"max_abs": 1e9})
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    error = failing(artifact)
    assert "the check could not tell damaged weights from the real thing" in error.what
    assert {c.name for c in error.report.failures} == {"control: damaged weights"}
    assert verify(str(artifact.path), negative_controls=False).passed


def test_grey_goldens_skip_the_channel_swap(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    golden = read_golden(artifact)
    from tests.tiny import run_onnx

    grey = np.repeat(golden.inputs[..., :1], 3, axis=3)
    write_golden(artifact.path, replace(golden, inputs=grey, outputs=run_onnx(artifact.path / "model.onnx", grey)))
    report = verify(str(reseal(artifact).path))
    assert next(c for c in report.checks if c.name == "control: channels swapped").skipped


def test_unknown_tolerances_fail(tmp_path: Path) -> None:
    assert (
        "tolerances.fp32.cosine"
        in failing(make_tiny_artifact(tmp_path / "a", tolerances={"fp32": {"cosine": 1.0}})).what
    )


def test_all_variants_or_one(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True)
    report = verify(str(artifact.path))
    variants = {check.variant for check in report.checks} - {""}
    assert variants == {"onnxruntime:fp32", "openvino:fp32", "openvino:bf16"}
    assert {c.variant for c in verify(str(artifact.path), target="openvino:fp32:1").checks} - {""} == {"openvino:fp32"}
    with pytest.raises(UsageError, match="no variant openvino:int8"):
        verify(str(artifact.path), target="openvino:int8")


def test_engines_that_are_missing_are_skipped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True)
    openvino_module._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    report = verify(str(artifact.path))
    skipped = [check for check in report.checks if check.skipped and check.variant]
    assert [check.variant for check in skipped] == ["openvino:fp32", "openvino:bf16"]
    assert "openvino is not installed" in skipped[0].detail
    with pytest.raises(MissingDependencyError):
        verify(str(artifact.path), target="openvino:fp32")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError):
        verify(str(artifact.path))


def test_an_archive_is_verified(artifact: Artifact, tmp_path: Path) -> None:
    assert verify(str(pack(artifact, tmp_path / "a.pvit"))).passed


def test_package_data_and_read_only_folders_are_left_alone(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (artifact.path / "manifest.json").read_bytes()
    monkeypatch.setattr(command, "shipped_root", lambda: artifact.path.parent)
    report = verify(str(artifact.path))
    assert not report.recorded
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not verify(str(artifact.path)).recorded
    assert (artifact.path / "manifest.json").read_bytes() == before


def test_run_checks_without_controls_and_with_progress(artifact: Artifact) -> None:
    seen = []
    found = run_checks(artifact, negative_controls=False, on_check=lambda: seen.append(1))
    assert len(seen) == len(found)
    assert all(check.passed for check in found)
    assert not any(check.name.startswith("control") for check in found)
    assert isinstance(found[0], checks.Check)


def test_data_is_held_against_the_manifests_metric(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    (tmp_path / "photos").mkdir()
    for i in range(2):
        write_image(tmp_path / "photos" / f"{i}.png", photo(*TILE, seed=i))
    report = verify(str(artifact.path), data=str(tmp_path / "photos"))  # the manifest states 20 dB
    assert report.checks[-1].name == "data"
    assert report.checks[-1].figures["value"] > 21
    higher = artifact.manifest.metrics[0].model_copy(update={"value": 35.0})
    write_manifest(artifact.path, artifact.manifest.model_copy(update={"metrics": [higher]}))
    assert "the manifest states 35.00" in failing(artifact, data=str(tmp_path / "photos")).what
    write_manifest(artifact.path, artifact.manifest.model_copy(update={"metrics": []}))
    with pytest.raises(UsageError, match="states no psnr@sigma25"):
        verify(str(artifact.path), data=str(tmp_path / "photos"))


def test_data_for_a_classifier_with_limit_and_other_metrics(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    for name, label in (("warm/red", 0), ("cold/blue", 3)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            write_image(tmp_path / "data" / name / f"{i}.png", coloured(label, seed=i))
    assert verify(str(artifact.path), data=str(tmp_path / "data"), limit=2).checks[-1].figures["value"] == 100.0
    noisy_pair = tmp_path / "pairs"
    for side in ("noisy", "clean"):
        (noisy_pair / side).mkdir(parents=True)
        write_image(noisy_pair / side / "a.png", noisy(photo(*TILE)) if side == "noisy" else photo(*TILE))
    restorer = make_tiny_artifact(tmp_path / "r")
    with pytest.raises(UsageError, match="not psnr@sigma25"):
        verify(str(restorer.path), data=str(noisy_pair), layout="pairs")
