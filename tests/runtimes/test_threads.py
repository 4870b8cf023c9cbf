"""One loaded model, many threads: every answer is the one that a single thread gets."""

from __future__ import annotations

import runpy
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from pocketvit.runtimes import openvino as openvino_module
from pocketvit.runtimes.model import load
from pocketvit.spec.artifact import Artifact
from tests.runtimes.test_torchscript import trace
from tests.threads import answers_of_threads
from tests.tiny import TILE, make_tiny_artifact, photo


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("threads") / "a", openvino=True)


@pytest.mark.parametrize("target", ["onnxruntime:fp32:1", "openvino:fp32:1"])
def test_eight_threads_get_the_answers_of_one(artifact: Artifact, target: str) -> None:
    session = load(artifact.path, target).session
    pictures = [photo(*TILE, seed=i) for i in range(5)]
    expected = [session.run({"pixels": picture[None]})["restored"] for picture in pictures]
    answers_of_threads(session, pictures, calls=100)
    before = psutil.Process().memory_info().rss
    for index, answer in answers_of_threads(session, pictures):
        np.testing.assert_array_equal(answer["restored"], expected[index])
    assert psutil.Process().memory_info().rss - before < 400 * expected[0].nbytes + 20e6  # the answers themselves


@pytest.mark.slow
def test_torchscript_too(artifact: Artifact, tmp_path: Path) -> None:
    from pocketvit.runtimes import open_session
    from pocketvit.spec.target import Target

    session = open_session(trace(tmp_path / "m.pt"), Target("torchscript", "fp32", 1), artifact.manifest)
    pictures = [photo(*TILE, seed=i) for i in range(5)]
    expected = [session.run({"pixels": picture[None]})["restored"] for picture in pictures]
    for index, answer in answers_of_threads(session, pictures):
        np.testing.assert_allclose(answer["restored"], expected[index], atol=1e-3)


def test_a_whole_model_from_many_threads(artifact: Artifact) -> None:
    model, image = load(artifact.path, "openvino:fp32:1"), photo(90, 100)
    expected, found = model(image).image, []
    workers = [threading.Thread(target=lambda: found.append(model(image).image)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 8
    for answer in found:
        np.testing.assert_array_equal(answer, expected)


def test_openvino_makes_requests_as_they_are_needed_and_no_more(artifact: Artifact) -> None:
    session = load(artifact.path, "openvino:fp32:1").session
    made = []
    compiled = session._fixed._compiled

    class Counting:
        outputs = compiled.outputs

        def create_infer_request(self) -> object:
            made.append(1)
            return compiled.create_infer_request()

    session._fixed._compiled = Counting()
    pictures = [photo(*TILE)]
    answers_of_threads(session, pictures, calls=20, threads=1)
    assert len(made) == 1
    answers_of_threads(session, pictures, calls=200)
    assert len(made) <= openvino_module._REQUESTS


def test_two_engines_in_turns_from_four_threads_each(artifact: Artifact) -> None:
    image, found = photo(90, 100), []
    models = {target: load(artifact.path, target) for target in ("onnxruntime:fp32:1", "openvino:fp32:1")}
    expected = {target: model(image).image for target, model in models.items()}

    def call(target: str) -> None:
        found.extend((target, models[target](image).image) for _ in range(20))

    workers = [threading.Thread(target=call, args=(target,)) for _ in range(4) for target in models]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 160
    for target, answer in found:
        np.testing.assert_array_equal(answer, expected[target])


def test_the_benchmark_counts_wrong_answers_and_errors(
    artifact: Artifact, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["threads.py", "--calls", "30", "--artifact", str(artifact.path), "--threads", "3"])
    main = runpy.run_path(str(repository / "benchmarks" / "threads.py"))["main"]
    assert main() == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[-7:-4] for row in rows] == [["30", "0", "0"]] * 3
    assert [row[0] for row in rows] == ["onnxruntime:fp32:1", "openvino:fp32:1", "in"]
    sound, calls = openvino_module.OpenVinoSession.run, []

    def sometimes(self: openvino_module.OpenVinoSession, inputs: dict) -> dict:
        calls.append(1)
        if len(calls) > 40 and len(calls) % 7 == 0:
            raise RuntimeError("busy")
        answer = sound(self, inputs)
        return {k: v + (len(calls) > 40 and len(calls) % 5 == 0) * 9 for k, v in answer.items()}

    monkeypatch.setattr(openvino_module.OpenVinoSession, "run", sometimes)
    assert main() == 1
    row = capsys.readouterr().out.splitlines()[2].split()
    assert int(row[2]) > 0
    assert int(row[3]) > 0
