from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketvit.errors import VerificationError
from pocketvit.spec import artifact as artifact_module
from pocketvit.spec.artifact import read_artifact, shipped_root
from pocketvit.spec.parsing import MAX_NUMBER, parse_manifest, plain_name
from tests.tiny import make_tiny_artifact


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    return (make_tiny_artifact(tmp_path_factory.mktemp("p") / "a", "classify").path / "manifest.json").read_text()


BENCH = {
    "variant": "onnxruntime:fp32", "threads": 2, "p50_ms": 1, "p90_ms": 2, "runs": 3, "input_shape": [1],
    "includes": "all",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(architecture={"macs": "many"}), "macs is no count"),
        (lambda d: d.update(architecture={"parameters": True}), "parameters is no count"),
        (lambda d: d.update(architecture={"macs": -1}), "macs is no count"),
        (lambda d: d["files"][0].update(bytes="7"), "files.0.bytes"),
        (lambda d: d["files"][0].update(bytes=-1), "files.0.bytes"),
        (lambda d: d["preprocess"].update(crop_pct="0.9"), "preprocess.crop_pct"),
        (lambda d: d["preprocess"].update(crop_pct=1e-4), "preprocess.crop_pct must be at least 0.05"),
        (lambda d: d["preprocess"].update(size=[10**6, 10**6]), "preprocess.size must be at least 1 and at most 8192"),
        (lambda d: d["preprocess"].update(size=[8000, 8000]), "too large"),
        (lambda d: d["preprocess"].update(resize="tile"), "tile does not go with the task classify"),
        (lambda d: d["variants"][0].update(path="x" * 5000), "no plain name"),
        (lambda d: d["variants"][0].update(path="a\0b"), "no plain name"),
        (lambda d: d["variants"][0].update(path=""), "no plain name"),
        (lambda d: d["variants"][0].update(companions=["C:evil"]), "no plain name"),
        (lambda d: d["variants"][0].update(precision="fp64"), "unknown precision 'fp64'"),
        (lambda d: d["variants"][0].update(runtime="../x"), "is no plain word"),
        (lambda d: d["variants"].append(d["variants"][0]), "variant onnxruntime:fp32 is listed twice"),
        (lambda d: d["files"].append(d["files"][0]), "is listed twice"),
        (lambda d: d["inputs"][0].update(name="image"), "the inputs are image"),
        (lambda d: d["inputs"][0].update(dtype="float32"), "the inputs are pixels float32"),
        (lambda d: d.update(inputs=[]), "the inputs are none"),
        (lambda d: d["outputs"][0].update(dtype="float16"), "output probs_coarse is float16, not float32"),
        (lambda d: d["outputs"].append(d["outputs"][0]), "the outputs are"),
        (lambda d: d.update(benchmarks=[BENCH | {"threads": 10**9}]), "benchmarks.0.threads"),
        (lambda d: d.update(benchmarks=[BENCH | {"p50_ms": 0}]), "times must be positive"),
        (lambda d: d.update(benchmarks=[BENCH | {"runs": -1}]), "runs a count"),
        (lambda d: d["metrics"][0].update(count=-1), "a count is negative"),
        (lambda d: d.update(default="onnxruntime:int8"), "'onnxruntime:int8' is none of the variants onnxruntime:fp32"),
        (lambda d: d["levels"][0].update(labels=["a" * 10**6, "b"]), "level coarse: a label has 1000000 characters"),
        (lambda d: d.update(training={"seen": 10**30}), "out of bounds"),
        (lambda d: d.update(training={"seen": float("nan")}), "out of bounds"),
        (lambda d: d.update(training={"seen": float("inf")}), "out of bounds"),
        (lambda d: d.update(verification={"passed": True, "checks": [{}], "tool_version": "1"}), "verification.checks"),
    ],
)
def test_what_is_odd_is_named(document: str, change: Callable[[dict[str, Any]], object], says: str) -> None:
    changed = json.loads(document)
    change(changed)
    with pytest.raises(ValueError, match=r"[^\n]*") as caught:
        parse_manifest(json.dumps(changed).encode())
    assert says in str(caught.value)


def test_a_key_may_stand_there_once(document: str) -> None:
    assert parse_manifest(document.encode()).default == "onnxruntime:fp32"
    for twice in (
        document.rstrip()[:-1] + ', "default": "openvino:fp32"}',
        document.replace('"name"', '"x":1,"x":2,"name"'),
    ):
        with pytest.raises(ValueError, match="stands there twice"):
            parse_manifest(twice.encode())


@pytest.mark.parametrize("text", ["9" * 5000, "1e999", "[" * 500 + "]" * 500, "[" * 100_000, '"\\ud800"', "-Infinity"])
def test_json_that_is_a_trap(document: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_manifest(document.replace('"training": {', f'"training": {{"trap": {text}', 1).encode())


def test_bounds_leave_room(document: str) -> None:
    changed = json.loads(document)
    changed |= {"benchmarks": [BENCH | {"threads": 4096}], "training": {"seen": MAX_NUMBER, "deep": [[[[1]]]]}}
    assert parse_manifest(json.dumps(changed).encode()).benchmarks[0].threads == 4096


def test_what_was_shipped_before_is_still_read() -> None:
    assert parse_manifest((shipped_root() / "denoise-color" / "manifest.json").read_bytes()).name == "denoise-color"


def test_a_manifest_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tiny_artifact(tmp_path / "a").path
    monkeypatch.setattr(artifact_module, "MAX_BYTES", 100)
    with pytest.raises(VerificationError, match="larger than a manifest"):
        read_artifact(path)


@pytest.mark.parametrize("name", ["a.onnx", "ä b.onnx", "a" * 255])
def test_plain_names(name: str) -> None:
    assert plain_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "/a", "a\n", "a\0", "ä" * 128, "c:x", "\ud800"])
def test_names_that_are_not_plain(name: str) -> None:
    assert not plain_name(name)
