from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from pocketvit.errors import DataError, UsageError
from pocketvit.export.artifact import answers, complexity, create_artifact, make_golden, pixel_model_of, shrink
from pocketvit.export.built import Built
from pocketvit.export.card import write_card
from pocketvit.export.onnx import write
from pocketvit.models.trained import Trained
from pocketvit.report.command import artifact_report
from pocketvit.runtimes.model import load
from pocketvit.spec.artifact import read_artifact, sha256
from pocketvit.spec.golden import read_golden
from pocketvit.spec.images import read_image, write_image
from pocketvit.spec.manifest import BenchRow, Licence, LineageStep, MetricRow
from pocketvit.spec.preprocess import prepare
from pocketvit.spec.tasks import TASKS
from pocketvit.verify.command import verify
from tests.export.nets import Case, cases, classifier, restorer
from tests.tiny import photo


def files(folder: Path) -> list[Built]:
    folder.mkdir(exist_ok=True)
    for name in ("net.onnx", "net.xml", "net.bin"):
        (folder / name).write_bytes(name.encode() * 10)
    pair = (folder / "net.xml", (folder / "net.bin",))
    return [
        Built("onnxruntime", "fp32", folder / "net.onnx"),
        Built("openvino", "fp32", *pair),
        Built("openvino", "bf16", *pair),
    ]


def test_golden_of_a_classifier_comes_from_its_sources() -> None:
    trained = classifier()
    golden = make_golden(trained, cases("classify", 6, (500, 300)), 5)
    assert golden.inputs.shape == (5, 32, 40, 3)
    assert len(golden.sources) == 3
    for source, pixels in zip(golden.sources, golden.inputs, strict=False):
        assert max(source.shape) == 400
        np.testing.assert_array_equal(prepare(source, trained.preprocess), pixels)
    want = answers(pixel_model_of(trained), list(golden.inputs))
    for name in ("probs_coarse", "probs_fine"):
        np.testing.assert_array_equal(golden.outputs[name], want[name])
    np.testing.assert_array_equal(golden.truth, [[i % 2, i % 3] for i in range(5)])


def test_golden_of_a_restorer_is_the_centre_and_small_images_are_padded() -> None:
    trained = restorer((33, 46))
    big, small = photo(101, 90), photo(20, 30, seed=1)
    golden = make_golden(trained, [Case(big, big[::-1].copy()), Case(small, small)], 6)
    np.testing.assert_array_equal(golden.inputs[0], big[34:67, 22:68])
    np.testing.assert_array_equal(golden.truth[0], big[::-1][34:67, 22:68])
    np.testing.assert_array_equal(golden.inputs[1][:20, :30], small)
    assert golden.sources == ()
    assert (golden.outputs["restored"] * 16 % 1 == 0).all()


def test_goldens_stay_below_the_byte_limit_but_there_is_one(tmp_path: Path) -> None:
    trained = restorer((64, 64))
    rng = np.random.default_rng(0)
    noise = [Case(x, x) for x in rng.integers(0, 256, (8, 64, 64, 3), np.uint8)]
    golden = make_golden(trained, noise, 8, max_bytes=200_000)
    assert 1 < len(golden.inputs) < 8
    (tmp_path / "f").mkdir()
    artifact = create_artifact(trained, tmp_path / "a", name="x", golden=golden, built=files(tmp_path / "f"))
    assert (artifact.path / "golden.npz").stat().st_size < 200_000
    assert len(make_golden(trained, noise, 8, max_bytes=1).inputs) == 1


def test_no_cases_is_a_data_error() -> None:
    with pytest.raises(DataError) as error:
        make_golden(classifier(), [], 3)
    assert error.value.exit_code == 3


def test_artifact_holds_all_it_was_given_and_reads_back(tmp_path: Path) -> None:
    trained = classifier()
    golden = make_golden(trained, cases("classify"), 2)
    rows = [
        MetricRow(
            variant="openvino:bf16",
            name="fine.top1",
            value=81.25,
            unit="%",
            dataset="tiny",
            split="val",
            count=4,
            protocol="centre crop",
        )
    ]
    measured = {
        "metric_before": 81.0,
        "metric_after": 72.0,
        "latency_ms_before": 4.0,
        "latency_ms_after": 2.0,
        "bytes_before": 2_000_000,
        "bytes_after": 1_000_000,
    }
    steps = [LineageStep(step="int8", kept=False, reason="metric drop 9 > 1", metric_name="fine.top1", **measured)]
    timed = {
        "p50_ms": 3.25,
        "p90_ms": 4.5,
        "runs": 77,
        "input_shape": [1, 32, 40, 3],
        "includes": "inference",
        "environment": {"cpu": "Test CPU"},
    }
    create_artifact(
        trained, tmp_path / "a", name="x-1", version="1.2.3", golden=golden, built=files(tmp_path / "f"),
        default="openvino:bf16", main_metric="coarse.top1", lineage=steps,
        metrics=rows, benchmarks=[BenchRow(variant="openvino:bf16", threads=2, **timed)],
        licence=Licence(weights="MIT", data="CC0"), training={"photos": 12},
        tolerances={"bf16": {"max_abs": 0.125}},
    )  # fmt: skip
    artifact = read_artifact(tmp_path / "a")
    m = artifact.manifest
    assert (m.name, m.version, m.default, m.main_metric, m.training) == (
        "x-1",
        "1.2.3",
        "openvino:bf16",
        "coarse.top1",
        {"photos": 12},
    )
    assert [(v.runtime, v.precision, v.path, v.companions) for v in m.variants] == [
        ("onnxruntime", "fp32", "net.onnx", []),
        ("openvino", "fp32", "net.xml", ["net.bin"]),
        ("openvino", "bf16", "net.xml", ["net.bin"]),
    ]
    assert m.variants[2].metrics == {"fine.top1": 81.25}
    assert m.tolerances["bf16"] == {**TASKS["classify"].tolerances["bf16"], "max_abs": 0.125}
    assert m.architecture["parameters"] == sum(p.numel() for p in trained.model.parameters())
    assert [o.shape for o in m.outputs] == [[1, 2], [1, 3]]
    assert {e.path for e in m.files} == {"net.onnx", "net.xml", "net.bin", "golden.npz", "card.md"}
    assert all(sha256(artifact.path / e.path) == e.sha256 for e in m.files)
    np.testing.assert_array_equal(read_golden(artifact).outputs["probs_fine"], golden.outputs["probs_fine"])
    card = (artifact.path / "card.md").read_text()
    wanted = [
        "81.2 %",
        "centre crop",
        "tiny (val, 4 images)",
        "rejected",
        "metric drop 9 > 1",
        "Test CPU",
        "3.25",
        "MIT",
        "CC0",
        "- photos: 12",
        "classifies",
        "2 -> 1",
    ]
    assert [part for part in wanted if part not in card] == []
    assert card == write_card(m.model_copy(update={"files": []}))


def test_files_of_one_name_from_two_places_are_kept_apart(tmp_path: Path) -> None:
    trained = restorer()
    golden = make_golden(trained, cases("restore"), 1)
    first, second = files(tmp_path / "a")[0], files(tmp_path / "b")[0]
    second.path.write_bytes(b"other")
    artifact = create_artifact(
        trained, tmp_path / "out", name="x", golden=golden, built=[first, Built("onnxruntime", "int8", second.path)]
    )
    assert [v.path for v in artifact.manifest.variants] == ["net.onnx", "net-onnxruntime-int8.onnx"]
    assert (artifact.path / "net-onnxruntime-int8.onnx").read_bytes().startswith(b"other")
    assert artifact.manifest.default == "onnxruntime:fp32"
    assert artifact.manifest.main_metric == "psnr"


@pytest.mark.parametrize(
    "change", [{"built": []}, {"default": "torchscript:fp32"}, {"name": "no spaces"}, {"version": "one"}]
)
def test_bad_arguments_are_usage_errors_and_leave_nothing(tmp_path: Path, change: dict) -> None:
    trained = restorer()
    arguments = {
        "name": "x",
        "golden": make_golden(trained, cases("restore"), 1),
        "built": files(tmp_path / "f"),
        **change,
    }
    with pytest.raises(UsageError) as error:
        create_artifact(trained, tmp_path / "out", **arguments)
    assert error.value.exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f"]


def test_twice_the_same_variant_and_existing_folder_are_errors(tmp_path: Path) -> None:
    trained = restorer()
    golden, built = make_golden(trained, cases("restore"), 1), files(tmp_path / "f")
    with pytest.raises(UsageError, match="each variant once"):
        create_artifact(trained, tmp_path / "out", name="x", golden=golden, built=[built[0], built[0]])
    create_artifact(trained, tmp_path / "out", name="x", golden=golden, built=built)
    with pytest.raises(UsageError, match="already exists"):
        create_artifact(trained, tmp_path / "out", name="y", golden=golden, built=built)
    assert (
        create_artifact(trained, tmp_path / "out", name="y", golden=golden, built=built, replace=True).manifest.name
        == "y"
    )


def test_complexity_counts_attention_products() -> None:
    # Per block 12 D^2 N + 2 N^2 D, plus patches (64*3 -> 32) and heads; 32x40 in patches of 8 are 20 tokens and one.
    n, d = 21, 32
    want = 2 * (12 * d * d * n + 2 * n * n * d) + 20 * 192 * d + d * (2 + 3)
    assert complexity(classifier())["macs"] == want


def test_shrink_keeps_the_shape_and_small_images() -> None:
    assert shrink(photo(100, 50), 40).shape == (40, 20, 3)
    small = photo(30, 20)
    assert shrink(small, 40) is small


def whole_artifact(trained: Trained, folder: Path, task: str) -> Path:
    """An artifact of two real ONNX files, float and int8-labelled."""
    (folder / "f").mkdir()
    built = write(pixel_model_of(trained), trained.preprocess.size, folder / "f")
    shutil.copy(built.path, folder / "f" / "model-int8.onnx")
    files = [built, Built("onnxruntime", "int8", folder / "f" / "model-int8.onnx")]
    golden = make_golden(trained, cases(task), 2)
    return create_artifact(trained, folder / "a", name="x", version="1.2.3", golden=golden, built=files).path


NETS = {
    "crop": lambda: classifier(),
    "narrow crop": lambda: classifier(crop_pct=0.77, interpolation="bilinear"),
    "stretch": lambda: classifier(resize="stretch"),
    "tile": lambda: restorer(),
}


@pytest.mark.parametrize("kind", NETS)
def test_the_cards_code_without_pocketvit_gives_the_answer_of_predict(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = "restore" if kind == "tile" else "classify"
    trained = NETS[kind]()
    artifact = whole_artifact(trained, tmp_path, task)
    code = re.findall(r"^```python\n(.*?)^```", (artifact / "card.md").read_text(), re.MULTILINE | re.DOTALL)[-1]
    assert "pocketvit" not in code
    model = load(artifact, "onnxruntime:fp32:1")
    for size in ((101, 140), (140, 61), (20, 30)):
        write_image(tmp_path / "photo.png", photo(*size, seed=sum(size)))
        picture = Image.open(tmp_path / "photo.png")
        picture.getexif()[274] = 6  # turned, as phones do
        picture.save(tmp_path / "photo.png", exif=picture.getexif())
        script = code.replace("THIS_FOLDER", str(artifact)).replace("photo.jpg", str(tmp_path / "photo.png"))
        script = script.replace("restored.png", str(tmp_path / "restored.png"))
        exec(script, {})
        answer = model(tmp_path / "photo.png")
        if task == "restore":
            found = read_image(tmp_path / "restored.png").astype(int)
            assert found.shape == answer.image.shape == (size[1], size[0], 3)
            assert np.abs(found - answer.image).max() <= 1  # a value near one half may round either way
            assert np.mean(found != answer.image) < 1e-3
        else:
            label, score = capsys.readouterr().out.split()
            assert (label, float(score)) == (answer.path[-1], pytest.approx(answer.levels[-1].score, abs=1e-5))


def test_onnx_files_say_what_they_are(tmp_path: Path) -> None:
    trained = classifier()
    artifact = whole_artifact(trained, tmp_path, "classify")
    for entry in read_artifact(artifact).manifest.files:
        assert sha256(artifact / entry.path) == entry.sha256
    for name in ("model.onnx", "model-int8.onnx"):
        onnx.checker.check_model(onnx.load(artifact / name))
        session = onnxruntime.InferenceSession(str(artifact / name), providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
        assert (about["name"], about["version"], about["task"]) == ("x", "1.2.3", "classify")
        assert json.loads(about["labels"]) == {"coarse": ["a", "b"], "fine": ["x", "y", "z"]}
        assert json.loads(about["parents"]) == {"fine": [0, 0, 1]}
        assert json.loads(about["preprocess"]) == trained.preprocess.to_dict()
    assert verify(str(artifact), target="onnxruntime:fp32").passed


@pytest.mark.parametrize(("baseline", "warns"), [(20.25, False), (29.95, True), (31.0, True)])
def test_the_card_says_what_is_gained_over_the_input(tmp_path: Path, baseline: float, warns: bool) -> None:
    trained, place = restorer(), {"dataset": "d", "split": "val", "count": 2}
    row = MetricRow(variant="onnxruntime:fp32", name="psnr@sigma25", value=30.0, unit="dB", baseline=baseline, **place)
    artifact = create_artifact(
        trained, tmp_path / "a", name="x", golden=make_golden(trained, cases("restore"), 1),
        built=files(tmp_path / "f"), metrics=[row],
    )  # fmt: skip
    card = (artifact.path / "card.md").read_text()
    assert (
        f"psnr@sigma25 of `onnxruntime:fp32`: {baseline:.2f} dB without the model, gain {30 - baseline:.2f} dB" in card
    )
    assert ("Warning: next to nothing is gained" in card) is warns
    assert any("without the model" in note for note in artifact_report(artifact).notes)


def test_the_card_is_no_way_into_a_page(tmp_path: Path) -> None:
    trained, evil = restorer(), "<script>alert(9)</script> ![](http://x/y.png) [a](javascript:b)\n# Title\n"
    row = MetricRow(
        variant="onnxruntime:fp32", name="psnr", value=30.0, unit="dB", dataset=evil, split=evil, count=2, protocol=evil
    )
    step = LineageStep(step=evil, kept=True, reason=evil, metric_name=evil, settings={evil: evil})
    manifest = create_artifact(
        trained, tmp_path / "a", name="x", golden=make_golden(trained, cases("restore"), 1),
        built=files(tmp_path / "f"), licence=Licence(weights=evil, data=evil), training={"recipe": evil, evil: [evil]},
        metrics=[row], lineage=[step], benchmarks=[],
    ).manifest  # fmt: skip
    card = write_card(manifest)
    assert card.count("alert(9)") > 8
    assert "<script" not in card
    assert "](http" not in card
    assert "](java" not in card
    assert "\n# Title" not in card


def test_card_of_a_restorer_says_how_it_tiles_and_what_is_not_measured(tmp_path: Path) -> None:
    trained = restorer()
    create_artifact(
        trained, tmp_path / "a", name="x", golden=make_golden(trained, cases("restore"), 1), built=files(tmp_path / "f")
    )
    card = (tmp_path / "a" / "card.md").read_text()
    assert "tiles of 33x46 pixels, overlap 8" in card
    assert "Not measured yet." in card
    assert "model(image).image" in card
    assert "Steps tried" not in card
    manifest = read_artifact(tmp_path / "a").manifest
    for metric, synthetic in (("psnr@sigma25", True), ("psnr", False)):
        row = MetricRow(
            variant="onnxruntime:fp32", name=metric, value=30.0, unit="dB", dataset="d", split="val", count=2
        )
        text = write_card(manifest.model_copy(update={"metrics": [row]}))
        assert ("added (synthetic) noise; camera noise was not tried" in text) is synthetic
