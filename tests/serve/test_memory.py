"""What photos cost ``predict``: little more than their pixels, and a photo that is too large ends no run."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError
from pocketvit.runtimes import model as model_module
from pocketvit.runtimes.model import load
from pocketvit.serve import predict as module
from pocketvit.serve.predict import predict
from pocketvit.spec.images import write_image
from tests.tiny import make_tiny_artifact, noisy, photo


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("memory") / "restore").path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("memory") / "classify", "classify").path)


def test_a_restored_picture_takes_little_more_than_its_bytes(restorer: str) -> None:
    model, image = load(restorer), np.tile(noisy(photo(100, 100)), (10, 10, 1))
    model(image[:100, :100])
    tracemalloc.start()
    result = model(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.image.dtype == np.uint8
    assert peak < 1.5 * image.nbytes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_large_photo_costs_three_times_its_bytes_at_most(restorer: str, repository: Path, suffix: str) -> None:
    script = repository / "benchmarks" / "memory_64mp.py"
    command = [sys.executable, str(script), "--artifact", restorer, "--format", suffix, "--side", "3000"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 1 < float(re.findall(r"ratio (\S+)", run.stdout)[0]) <= 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with in/a.png, which is 51 pixels high, and in/b.png and in/c.png, which are not."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abc"):
        write_image(tmp_path / "in" / f"{name}.png", noisy(photo(51 + number, 70, number)))
    return tmp_path


@pytest.mark.parametrize(
    ("owner", "name", "picture"),
    [
        (module, "read_image", lambda path: Image.open(path)),
        (model_module, "run_tiled", lambda run, image, *rest: Image.fromarray(image)),
        (module, "write_image", lambda path, image, **options: Image.fromarray(image)),
    ],
)
def test_out_of_memory_is_about_one_photo(
    restorer: str, folder: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, picture: object
) -> None:
    function = getattr(owner, name)

    def short(*arguments: object, **options: object) -> object:
        if picture(*arguments, **options).height == 51:
            raise MemoryError
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, short)
    report = predict(restorer, ["in"])
    assert [row.image.name for row in report.predictions] == ["b.png", "c.png"]
    assert [failure.image for failure in report.failures] == ["in/a.png"]
    assert re.match(r"in/a\.png: .*memory", report.failures[0].reason)
    assert report.exit_code == 3
    with pytest.raises(DataError, match=r"in/a\.png: .*memory"):
        predict(restorer, ["in/a.png"], out="alone")


def test_out_of_memory_of_a_call_is_a_data_error(restorer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*arguments: object) -> None:
        raise MemoryError

    model = load(restorer)
    monkeypatch.setattr(model_module, "run_tiled", short)
    with pytest.raises(DataError, match="70x50 pixels needs more memory"):
        model(photo(50, 70))


def test_the_pixels_of_a_photo_are_let_go_before_the_next(
    restorer: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of many large photos costs as much as one."""
    held = []

    def watch(path: Path) -> np.ndarray:
        assert not any(sys.getrefcount(pixels) > IDLE for pixels in held), path
        held.append(read(path))
        return held[-1]

    read = module.read_image
    probe = [np.zeros(1)]
    IDLE = next(sys.getrefcount(pixels) for pixels in probe)
    monkeypatch.setattr(module, "read_image", watch)
    assert len(predict(restorer, ["in"]).predictions) == len(held) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory")
def test_thin_pictures_among_others_cost_a_classifier_little(classifier: str, folder: Path) -> None:
    for name, size in (("flat", (2_000_000, 1)), ("tall", (1, 2_000_000))):
        Image.new("RGB", size, (10, 90, 200)).save(folder / "in" / f"{name}.png")
    limited = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (4_000_000_000,) * 2)\n"
        "from pocketvit.cli import main\nsys.exit(main())"
    )
    command = [sys.executable, "-P", "-c", limited, "predict", classifier, "in", "--out", "answers.json", "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "tall.png" in (folder / "answers.json").read_text()
