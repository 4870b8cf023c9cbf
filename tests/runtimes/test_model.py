from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.errors import DataError, MissingDependencyError, UsageError, VerificationError
from pocketvit.runtimes.model import Model, load
from pocketvit.runtimes.order import load_order
from pocketvit.spec.artifact import Artifact, pack
from pocketvit.spec.environment import processor
from pocketvit.spec.images import read_image
from pocketvit.spec.manifest import BenchRow, MetricRow
from pocketvit.spec.target import Target
from pocketvit.spec.tasks.classify import Classification
from pocketvit.spec.tasks.restore import Restored
from pocketvit.spec.tiles import count_tiles, run_tiled
from tests.bad_images import READABLE, UNREADABLE, write_bad_images
from tests.tiny import TILE, coloured, make_tiny_artifact, noisy, photo, restore_onnx


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("model") / "restore", "restore", openvino=True)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("model") / "classify", "classify", openvino=True)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_bad_images(tmp_path_factory.mktemp("bad"), huge=False)


def test_load_restores_files_pillow_images_and_arrays_alike(restorer: Artifact, tmp_path: Path) -> None:
    image = noisy(photo(70, 111))
    Image.fromarray(image).save(tmp_path / "a.png")
    model = pocketvit.load(restorer.path)
    answers = [model(source) for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image), image)]
    assert isinstance(answers[0], Restored)
    assert answers[0].image.shape == (70, 111, 3)
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.image, answers[0].image)
    assert model.path == restorer.path
    assert (str(model.target), model.variant.path) == ("onnxruntime:fp32:2", "model.onnx")


def test_restoring_is_run_tiled_over_the_session(restorer: Artifact) -> None:
    model, image = load(restorer.path), noisy(photo(100, 90))
    expected = run_tiled(lambda tile: model.session.run({"pixels": tile[None]})["restored"][0], image, TILE, 16)
    np.testing.assert_array_equal(model(image).image, expected)
    seen = []
    model(image, on_tile=lambda: seen.append(1))
    assert len(seen) == model.count_runs(100, 90) == count_tiles(100, 90, TILE, 16)


def test_parts_give_the_same_as_the_call(restorer: Artifact, classifier: Artifact) -> None:
    model, image = load(restorer.path), noisy(photo(50, 60))
    prepared = model.prepare(image)
    np.testing.assert_array_equal(prepared, image)
    raw = model.infer(prepared)
    assert raw["restored"].shape == (1, 50, 60, 3)
    np.testing.assert_array_equal(model.finish(raw).image, model(image).image)
    model = load(classifier.path)
    assert model.prepare(image).shape == (32, 32, 3)
    assert model.count_runs(500, 500) == 1
    assert set(model.infer(model.prepare(image))) == {"probs_coarse", "probs_fine"}


@pytest.mark.parametrize("target", ["onnxruntime:fp32", "openvino:fp32:1"])
@pytest.mark.parametrize("label", range(4))
def test_classification_follows_the_tree(classifier: Artifact, target: str, label: int) -> None:
    result = load(classifier.path, target)(coloured(label))
    assert isinstance(result, Classification)
    assert result.path == (("warm", "warm", "cold", "cold")[label], ("red", "yellow", "green", "blue")[label])
    assert [level.name for level in result.levels] == ["coarse", "fine"]
    assert result.levels[1].top(2)[0][0] == result.levels[1].label
    assert 0.5 < result.levels[1].score <= 1


def test_models_and_answers_are_shown_in_one_line(restorer: Artifact, classifier: Artifact) -> None:
    model = load(classifier.path, "onnxruntime:fp32:1")
    assert repr(model) == "<Model tiny-classify 0.1.0: classify, onnxruntime:fp32:1, 32x32 crop>"
    answer = model(coloured(3))
    assert repr(answer) == f"<Classification cold {100 * answer.levels[0].score:.1f} % > {answer.line.split(' > ')[1]}>"
    assert "blue" in repr(answer)
    assert repr(load(restorer.path, "onnxruntime:fp32:1")(photo(30, 40))) == "<Restored 30x40>"


def test_targets_as_text_and_object(restorer: Artifact) -> None:
    assert load(restorer.path, Target("openvino", "fp32", 1)).session.info.threads == 1
    assert load(restorer.path, "openvino:fp32").variant.companions == ["model.bin"]
    with pytest.raises(UsageError, match="no variant openvino:int8"):
        load(restorer.path, "openvino:int8")


def test_a_default_that_cannot_run_here_falls_back_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True, default="openvino:fp32")
    assert str(load(artifact.path).target) == "openvino:fp32:2"
    from pocketvit.runtimes import openvino as engine

    engine._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.WARNING, "pocketvit"):
        assert str(load(artifact.path).target) == "onnxruntime:fp32:2"
    assert "running onnxruntime:fp32:2 instead of openvino:fp32" in caplog.text
    with pytest.raises(MissingDependencyError):
        load(artifact.path, "openvino:fp32")


def timed(variant: str, p50: float, **changes: Any) -> BenchRow:
    fields = {"threads": 1, "runs": 50, "input_shape": [40, 56, 3], "includes": "all", "environment": processor()}
    ends = {"p50_low_ms": p50 * 0.99, "p50_high_ms": p50 * 1.01, "p90_ms": p50 * 1.1}
    return BenchRow(**{"variant": variant, "p50_ms": p50, **ends, **fields, **changes})


def scored(variant: str, value: float, **changes: Any) -> MetricRow:
    fields = {"name": "psnr@sigma25", "unit": "dB", "dataset": "d", "split": "val", "count": 9}
    return MetricRow(**{"variant": variant, "value": value, **fields, **changes})


FASTER = [timed("onnxruntime:fp32", 9.0), timed("openvino:bf16", 4.0), timed("openvino:fp32", 6.0)]
EQUAL = [scored("onnxruntime:fp32", 30.0), scored("openvino:bf16", 29.99), scored("openvino:fp32", 30.0)]


@pytest.mark.parametrize(
    ("benchmarks", "metrics", "taken"),
    [
        (FASTER, EQUAL, "openvino:bf16"),
        (FASTER, [*EQUAL[::2], scored("openvino:bf16", 29.9)], "openvino:fp32"),
        (FASTER, EQUAL[:1], "onnxruntime:fp32"),
        ([], EQUAL, "onnxruntime:fp32"),
        ([FASTER[0], timed("openvino:bf16", 8.9)], EQUAL, "onnxruntime:fp32"),
        ([FASTER[0], timed("openvino:bf16", 4.0, threads=8)], EQUAL, "onnxruntime:fp32"),
        ([timed(row.variant, row.p50_ms, environment={"cpu": "a phone"}) for row in FASTER], EQUAL, "onnxruntime:fp32"),
    ],
)
def test_without_a_target_the_fastest_of_the_equally_good_is_taken(
    tmp_path: Path, benchmarks: list[BenchRow], metrics: list[MetricRow], taken: str
) -> None:
    """Where the artifact was timed on a processor like this one."""
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True, benchmarks=benchmarks, metrics=metrics)
    assert load_order(artifact.manifest)[0].key == taken
    assert {v.key for v in load_order(artifact.manifest)} == {v.key for v in artifact.manifest.variants}
    if taken == "openvino:fp32":
        assert load(artifact.path).target.key == taken


def test_the_fastest_that_cannot_run_is_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True, benchmarks=FASTER, metrics=EQUAL)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert load(artifact.path).target.key == "onnxruntime:fp32"
    assert not caplog.records


def test_nothing_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError):
        load(artifact.path)


def test_a_damaged_default_is_no_reason_to_fall_back(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True)
    (artifact.path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(VerificationError):
        load(artifact.path)


def test_archives_load(restorer: Artifact, tmp_path: Path) -> None:
    image = noisy(photo(50, 60))
    np.testing.assert_array_equal(
        load(pack(restorer, tmp_path / "a.pvit"))(image).image, load(restorer.path)(image).image
    )


def test_a_candidate_file_needs_no_artifact(restorer: Artifact, tmp_path: Path) -> None:
    model = Model.from_file(restore_onnx(tmp_path / "candidate.onnx", blur=0.0), Target(), restorer.manifest)
    image = photo(90, 70)
    np.testing.assert_array_equal(model(image).image, image)  # no blur is the identity
    assert (model.artifact, model.variant, model.path) == (None, None, tmp_path)


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("task", ["restore", "classify"])
def test_bad_images(restorer: Artifact, classifier: Artifact, bad: dict[str, Path], task: str, name: str) -> None:
    with pytest.raises(DataError, match=r"cannot be decoded|empty"):
        load({"restore": restorer, "classify": classifier}[task].path)(bad[name])


@pytest.mark.parametrize("name", [name for name in READABLE if name != "huge"])
def test_odd_images_are_answered(restorer: Artifact, classifier: Artifact, bad: dict[str, Path], name: str) -> None:
    assert load(restorer.path)(bad[name]).image.shape == read_image(bad[name]).shape
    assert len(load(classifier.path)(bad[name]).levels) == 2


def test_nan_in_outputs_is_an_error(restorer: Artifact) -> None:
    model = load(restorer.path)
    with pytest.raises(DataError, match="restored holds NaN"):
        model.finish({"restored": np.full((1, 4, 4, 3), np.nan, np.float32)})


@pytest.mark.slow
def test_a_hundred_megapixels_are_classified(classifier: Artifact, tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000), 1).save(tmp_path / "huge.png")
    assert len(load(classifier.path)(tmp_path / "huge.png").levels) == 2


def test_works_without_torch_and_from_another_folder(restorer: Artifact, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['openvino'] = None\n"
        "import numpy, pocketvit\n"
        f"print(pocketvit.load({os.fspath(restorer.path)!r})(numpy.zeros((60, 70, 3), numpy.uint8)).image.shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(60, 70, 3)"


def test_a_file_that_is_not_the_proven_one_is_never_run(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    file = artifact.path / artifact.manifest.variants[0].path
    sound = file.read_bytes()
    for content, words in (
        (sound[:-1] + bytes([sound[-1] ^ 1]), "was changed"),
        (sound[:-9], "bytes, the manifest says"),
    ):
        file.write_bytes(content)
        with pytest.raises(VerificationError, match=words):
            load(artifact.path)
    file.unlink()
    with pytest.raises(VerificationError, match="is missing"):
        load(artifact.path)
