"""Files of networks that take any size: what they answer at several sizes, and what the artifact says of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pocketvit.compress.onnxruntime_int8 import StaticInt8, static_int8
from pocketvit.compress.openvino_int8 import NncfInt8, nncf_int8
from pocketvit.compress.step import Context
from pocketvit.data.cases import Case
from pocketvit.export import openvino as openvino_format
from pocketvit.export.artifact import answers, create_artifact, make_golden, measure_memory, pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.formats import exporter
from pocketvit.export.plain import plain_code
from pocketvit.models.trained import Trained
from pocketvit.runtimes import open_session
from pocketvit.runtimes.model import load
from pocketvit.spec.artifact import Artifact, shipped_root
from pocketvit.spec.parsing import parse_manifest
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.target import Target
from pocketvit.tasks.load import free_size
from pocketvit.tasks.start import new_model
from pocketvit.verify.command import verify
from tests.tiny import noisy, photo

SIZES = ((1, 1), (3, 70), (8, 16), (33, 65), (64, 41))
SETTINGS = {
    **{"model.name": "restorer_s", "task.name": "restore", "preprocess.resize": "tile", "preprocess.size": [64, 64]},
    **{"preprocess.overlap": 16, "preprocess.mean": [0, 0, 0], "preprocess.std": [1, 1, 1]},
}
OPTIONS = {"widths": [8, 12, 16], "bottleneck": "rcw"}


@pytest.fixture(scope="module")
def trained() -> Trained:
    model = new_model(load_recipe(None, SETTINGS | {"model.options": OPTIONS}), ())
    with torch.no_grad():  # a network that does something: its head begins at zero
        model.model.head.weight.normal_(0, 0.02)
    return replace(model, model=model.model.eval())


@pytest.fixture(scope="module")
def files(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    folder = tmp_path_factory.mktemp("any_size")
    size = trained.preprocess.size
    written = {name: exporter(name)(pixel_model_of(trained), size, folder, "model") for name in ("onnx", "torchscript")}
    graph = openvino_format.engine().convert_model(str(written["onnx"].path))
    return written | {"openvino": openvino_format.save(graph, folder, "model", "fp32")}


@pytest.fixture(scope="module")
def artifact(trained: Trained, files: dict[str, Built], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    cases = [Case(noisy(photo(80, 90, i)), photo(80, 90, i), "", Path("photo.png")) for i in range(2)]
    built = [files["onnx"], files["openvino"]]
    return create_artifact(
        trained,
        tmp_path_factory.mktemp("artifact") / "free",
        name="free",
        golden=make_golden(trained, cases, 2),
        built=built,
        memory=measure_memory(trained, built),
    )


@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript"])
def test_a_file_answers_at_any_size_as_the_network_does(trained: Trained, files: dict[str, Built], name: str) -> None:
    built, model = files[name], pixel_model_of(trained)
    session = open_session(built.path, Target(built.runtime, built.precision, 1))
    for size in SIZES:
        image = noisy(photo(*size))
        wanted = answers(model, [image])["restored"]
        got = next(iter(session.run({"pixels": image[None]}).values()))
        assert got.shape == wanted.shape == (1, *size, 3)
        assert np.abs(got - wanted).max() < 0.01


def test_the_network_says_of_which_multiples(trained: Trained) -> None:
    assert trained.preprocess.multiple == trained.model.multiple == 8
    fixed_size = free_size(torch.nn.Identity(), trained.preprocess)
    assert fixed_size.multiple == 0
    assert fixed_size.input_shape == [1, 64, 64, 3]


def test_the_artifact_is_proven_at_odd_sizes_and_states_its_memory(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert manifest.inputs[0].shape == manifest.outputs[0].shape == [1, -1, -1, 3]
    assert verify(str(artifact.path)).passed
    with np.load(artifact.path / "golden.npz") as golden:
        height, width = golden["inputs"].shape[1:3]
    assert height % manifest.preprocess.multiple
    assert width % manifest.preprocess.multiple
    if sys.platform == "linux":
        assert all(v.memory and 24 < v.memory.bytes_per_pixel < 2000 for v in manifest.variants)


def test_an_image_runs_whole_and_beyond_the_limit_in_tiles_that_the_limit_plans(artifact: Artifact) -> None:
    image = noisy(photo(201, 333))
    whole = load(artifact.path)
    assert whole.count_runs(201, 333) == 1
    tiled = load(artifact.path, memory_mb=0.1)
    assert tiled.tile(201, 333) == (64, 64)
    assert tiled.count_runs(201, 333) > 20
    assert whole(image).image.shape == tiled(image).image.shape == image.shape
    larger = load(artifact.path, memory_mb=60.0)
    assert larger.count_runs(1001, 1333) < tiled.count_runs(1001, 1333) / 4


def test_the_cards_code_takes_any_size(artifact: Artifact, tmp_path: Path) -> None:
    Image.fromarray(noisy(photo(51, 70))).save(tmp_path / "photo.png")
    code, _ = plain_code(artifact.manifest)
    text = "\n".join(code).replace("THIS_FOLDER", str(artifact.path)).replace("photo.jpg", "photo.png")
    subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True)
    wanted = load(artifact.path, "onnxruntime:fp32")(tmp_path / "photo.png").image
    got = np.asarray(Image.open(tmp_path / "restored.png"))
    assert np.abs(got.astype(int) - wanted).max() <= 1


def test_int8_files_take_any_size_too(trained: Trained, files: dict[str, Built], tmp_path: Path) -> None:
    images = [noisy(photo(64, 64, i)) for i in range(4)]
    context = Context(images, tmp_path, max_change=1e9, threads=1)
    report = next(static_int8(StaticInt8(max_error=1e9, smooth=(), compensate=False), files["onnx"], context))
    assert all(row.macs > 0 for row in report.ranking)
    session = open_session(report.built.path, Target("onnxruntime", "int8", 1))
    assert session.run({"pixels": noisy(photo(33, 65))[None]})["restored"].shape == (1, 33, 65, 3)
    attempts = nncf_int8(NncfInt8(), files["openvino"], context)
    next(attempts)
    assert all(row.macs > 0 for row in next(attempts).ranking)  # of OpenVINO's the work is counted too


def test_openvino_stays_compiled_for_a_few_sizes(files: dict[str, Built]) -> None:
    session = open_session(files["openvino"].path, Target("openvino", "fp32", 1))
    for size in ((8, 8), (16, 8), (8, 8), (16, 8)):
        session.run({"pixels": np.zeros((1, *size, 3), np.uint8)})
    assert len(session.compiled) == 2
    for side in (24, 32, 40, 48, 8):
        session.run({"pixels": np.zeros((1, side, 8, 3), np.uint8)})
    assert len(session.compiled) == 7  # 8x8 had been given up


def test_a_manifest_of_before_is_read_and_runs_in_tiles_of_its_size() -> None:
    document = json.loads((shipped_root() / "denoise-color" / "manifest.json").read_text())
    document["preprocess"].pop("multiple", None)
    for port in (*document["inputs"], *document["outputs"]):
        port["shape"] = [1, *document["preprocess"]["size"], 3]
    for variant in document["variants"]:
        variant.pop("memory", None)
    assert parse_manifest(json.dumps(document).encode()).preprocess.multiple == 0
