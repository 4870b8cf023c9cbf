from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pocketvit.commands import COMMANDS
from pocketvit.errors import DataError, UsageError
from pocketvit.runtimes.model import load
from pocketvit.spec.images import write_image
from pocketvit.spec.metrics import psnr
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.restore import Restored
from pocketvit.verify.evaluate import measure
from tests.tiny import TILE, coloured, make_tiny_artifact, noisy, photo

evaluate = COMMANDS["eval"].resolve()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        write_image(tmp_path / "photos" / f"{i}.png", photo(60, 70, seed=i))
    return tmp_path / "photos"


def test_measure_averages_over_cases_and_reports_progress() -> None:
    clean = photo(30, 30)
    cases = [SimpleNamespace(image=noisy(clean, 25, seed), truth=clean, condition="sigma25") for seed in range(3)]
    seen = []
    rows, count = measure(Restored, cases, TASKS["restore"].evaluator((), "sigma25"), lambda: seen.append(1))
    values = {row.name: row.value for row in rows}
    assert values["psnr@sigma25"] == pytest.approx(np.mean([psnr(c.image, clean) for c in cases]))
    assert len(seen) == count == 3
    with pytest.raises(DataError, match="no images"):
        measure(Restored, [], TASKS["restore"].evaluator((), ""))


def test_clean_photos_follow_the_protocol(tmp_path: Path, photos: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    report = evaluate(str(artifact.path), str(photos))
    assert report.main_metric == "psnr@sigma25"
    assert report.count == 9
    assert [row.name for row in report.rows] == [f"{m}@sigma{s}" for s in (15, 25, 50) for m in ("psnr", "ssim")]
    model, rng, expected = load(artifact.path), np.random.default_rng(0), []
    for i in range(3):
        clean = photo(60, 70, seed=i)
        image = np.clip(np.round(clean + rng.normal(0, 25, clean.shape)), 0, 255).astype(np.uint8)
        expected.append(psnr(model(image).image, clean))
    assert report.metrics["psnr@sigma25"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert evaluate(str(artifact.path), str(photos)).rows == report.rows


def test_other_noise_levels_target_and_limit(tmp_path: Path, photos: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True)
    report = evaluate(str(artifact.path), str(photos), eval_sigma=(10,), target="openvino:fp32:1", limit=2)
    assert (report.count, report.variant, report.main_metric) == (2, "openvino:fp32", "psnr@sigma10")


def test_blurred_photos_are_scored_by_their_kind(tmp_path: Path, photos: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    report = evaluate(str(artifact.path), str(photos), eval_sigma=(5,), blur=True, limit=2)
    assert (report.count, report.main_metric) == (4, "psnr@shake-sigma5")
    assert set(report.details) == {"psnr@shake-sigma5", "psnr@defocus-sigma5"}
    unblurred = evaluate(str(artifact.path), str(photos), eval_sigma=(5,), limit=2)
    for row in report.details.values():
        assert row["input"] < unblurred.details["psnr@sigma5"]["input"]


def test_pairs(tmp_path: Path) -> None:
    for side in ("noisy", "clean"):
        (tmp_path / "d" / side).mkdir(parents=True)
        write_image(tmp_path / "d" / side / "a.png", noisy(photo(*TILE)) if side == "noisy" else photo(*TILE))
    report = evaluate(str(make_tiny_artifact(tmp_path / "a").path), str(tmp_path / "d"), layout="pairs")
    assert report.main_metric == "psnr"
    assert report.count == 1
    with pytest.raises(UsageError, match="does not go with"):
        evaluate(str(tmp_path / "a"), str(tmp_path / "d"), layout="classes")


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    for name, label in (("warm/yellow", 1), ("cold/blue", 3), ("cold/green", 1)):  # the last folder lies
        (tmp_path / "data" / name).mkdir(parents=True)
        image = coloured(label).copy()
        image[0, 0] ^= len(name) & 1  # no copy of another: it would count once
        write_image(tmp_path / "data" / name / "x.png", image)
    report = evaluate(str(artifact.path), str(tmp_path / "data"))
    assert report.main_metric == "fine.top1"
    assert report.metrics["fine.top1"] == pytest.approx(200 / 3)
    assert report.metrics["coarse.top1"] == pytest.approx(200 / 3)
    (tmp_path / "data" / "warm" / "purple").mkdir()
    write_image(tmp_path / "data" / "warm" / "purple" / "x.png", coloured(0))
    with pytest.raises(DataError, match="purple"):
        evaluate(str(artifact.path), str(tmp_path / "data"))


def test_report_prints_and_is_json(tmp_path: Path, photos: Path) -> None:
    report = evaluate(str(make_tiny_artifact(tmp_path / "a").path), str(photos), eval_sigma=(25,))
    text = io.StringIO()
    Console(file=text, width=120).print(report.render())
    assert "tiny-restore (onnxruntime:fp32)" in text.getvalue()
    assert "psnr@sigma25" in text.getvalue()
    document = json.loads(json.dumps(report.to_dict()))
    assert document["metrics"][0]["unit"] == "dB"
    first = document["metrics"][0]
    assert first["low"] < first["value"] < first["high"]
    assert f"{first['low']:.2f} to {first['high']:.2f}" in text.getvalue()
    assert report.exit_code == 0


def test_bad_data(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for data in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(DataError):
            evaluate(str(artifact.path), str(data))


def test_a_restorers_input_output_and_gain_are_shown(tmp_path: Path, photos: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    report = evaluate(str(artifact.path), str(photos), eval_sigma=(25, 2))
    row = report.to_dict()["details"]["psnr@sigma25"]
    rng, inputs = np.random.default_rng(0), []
    for i in range(3):
        clean = photo(60, 70, seed=i)
        inputs.append(psnr(np.clip(np.round(clean + rng.normal(0, 25, clean.shape)), 0, 255).astype(np.uint8), clean))
    assert row["input"] == pytest.approx(np.mean(inputs))
    assert row["output"] == pytest.approx(report.metrics["psnr@sigma25"])
    assert row["gain"] == pytest.approx(row["output"] - row["input"])
    text = printed(report)
    assert f"psnr@sigma25: input {row['input']:.2f} dB, output {row['output']:.2f} dB, gain" in text
    assert "Warning: psnr@sigma25" not in text
    assert "Warning: psnr@sigma2: the model makes photos worse here." in text


def printed(report: Any) -> str:
    text = io.StringIO()
    Console(file=text, width=120).print(report.render())
    return text.getvalue()


def test_what_a_classifier_confuses_is_shown(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    for name, label in (("warm/yellow", 1), ("cold/blue", 3), ("cold/green", 1)):
        (tmp_path / "data" / name).mkdir(parents=True)
        picture = coloured(label)
        picture[0, 0] = 0 if name == "cold/green" else 255  # no copies
        write_image(tmp_path / "data" / name / "x.png", picture)
    report = evaluate(str(artifact.path), str(tmp_path / "data"))
    details = report.to_dict()["details"]
    assert details["confusion"]["counts"] == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert {row["label"]: row["top1"] for row in details["per_class"]}["green"] == 0
    text = printed(report)
    assert "Weakest classes: green 0 of 1." in text
    assert ": fine.top1 66.67 % (20.77 to 93.85, 3 photos)" in " ".join(text.split())
    assert "top5" not in text
