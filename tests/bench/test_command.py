from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import pocketvit
from pocketvit.bench import command
from pocketvit.bench.command import bench
from pocketvit.bench.timing import Ratio, Timing
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.images import write_image
from tests.tiny import make_tiny_artifact, photo


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(
        tmp_path_factory.mktemp("bench") / "a",
        "restore",
        openvino=True,
        architecture={"name": "blur", "macs": 2.5e6, "parameters": 81},
    )


def rendered(report: command.BenchReport) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(report.render())
    return text.getvalue()


def test_one_artifact(artifact: Artifact, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", photo(60, 80))
    report = pocketvit.bench(str(artifact.path), image=str(tmp_path / "a.png"), seconds=0.1)
    (result,) = report.results
    assert report.ratio is None
    assert (result.variant, result.threads, result.image_shape, result.runs_per_image) == (
        "onnxruntime:fp32",
        2,
        (60, 80, 3),
        4,
    )
    assert result.engine.startswith("onnxruntime ")
    assert result.disk_bytes == (artifact.path / "model.onnx").stat().st_size
    assert len(result.total.times_ms) == len(result.infer.times_ms) >= 15
    for pre, infer, post, total in zip(
        *(t.times_ms for t in (result.pre, result.infer, result.post, result.total)), strict=True
    ):
        assert 0 < pre + infer + post <= total
    assert result.fresh is not None
    assert result.fresh.peak_rss_mb > 30
    text = rendered(report)
    for words in (
        "60x80, 4 runs",
        "p99",
        "images/s",
        "0.0025 G",
        "8.1e-05 M",
        "pre / inference / post",
        report.environment["cpu"],
    ):
        assert words in text
    assert json.loads(json.dumps(report.to_dict()))["results"][0]["fresh_process"]["load_ms"] > 0


def test_two_targets_side_by_side(artifact: Artifact) -> None:
    report = bench(
        str(artifact.path),
        target="onnxruntime:fp32:1",
        other_target="openvino:fp32:1",
        size="48x64",
        seconds=0.1,
        memory=False,
    )
    first, second = report.results
    assert (first.variant, second.variant) == ("onnxruntime:fp32", "openvino:fp32")
    assert len(first.total.times_ms) == len(second.total.times_ms) == len(report.ratio.ratios)
    assert report.ratio.ratios[0] == pytest.approx(first.total.times_ms[0] / second.total.times_ms[0])
    assert second.disk_bytes == sum((artifact.path / name).stat().st_size for name in ("model.xml", "model.bin"))
    assert first.fresh is None
    assert "times as fast as the first" in rendered(report)


def test_two_artifacts_and_unknown_figures(artifact: Artifact, tmp_path: Path) -> None:
    other = make_tiny_artifact(tmp_path / "b", "classify")
    report = bench(str(artifact.path), str(other.path), size="48x64", seconds=0.05, memory=False)
    assert [result.name for result in report.results] == ["tiny-restore", "tiny-classify"]
    assert report.results[1].macs is None
    lines = [line for line in rendered(report).splitlines() if line.startswith("parameters")]
    assert lines[0].split()[-1] == "-"


def test_warnings(artifact: Artifact) -> None:
    calm = bench(str(artifact.path), size="48x64", seconds=0.01, memory=False).results[0]
    from dataclasses import replace

    steady, scattered = replace(calm, total=Timing((5.0,) * 30)), replace(calm, total=Timing((5.0, 15.0) * 15))
    assert command._warnings((replace(steady, threads=1),), None) == []
    (text,) = command._warnings((replace(scattered, threads=1),), None)
    assert "scatter widely" in text
    assert "runs 999 threads on" in command._warnings((replace(steady, threads=999),), None)[0]
    assert "no difference can be told" in command._warnings((), Ratio((0.9, 1.1, 1.0)))[0]
    assert command._warnings((), Ratio((2.0, 2.1, 2.2))) == []


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"size": "big"}, UsageError, "HEIGHTxWIDTH"),
        ({"size": "8x8", "image": "a.png"}, UsageError, "exclude"),
        ({"seconds": 0.0}, UsageError, "seconds"),
        ({"seconds": float("nan")}, UsageError, "seconds"),
        ({"target": "openvino:int8"}, UsageError, "no variant"),
        ({"image": "none.png"}, DataError, "no such file"),
        ({"other": "nowhere"}, UsageError, "no artifact there"),
    ],
)
def test_wrong_options(artifact: Artifact, options: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        bench(str(artifact.path), **options)
