from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.runtimes import Port, open_session
from pocketvit.runtimes.model import Model
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.target import Target
from pocketvit.verify.perturb import damaged_copy
from tests.tiny import TILE, make_tiny_artifact, photo

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow  # importing torch


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("ts") / "restore")


def trace(path: Path, dtype: object = torch.float32) -> Path:
    """A frozen network of the tiny restorer's shape; weights are constants of the graph, as an exporter leaves them."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = self.conv(pixels.permute(0, 3, 1, 2).to(self.conv.weight.dtype))
            return x.clamp(0, 255).permute(0, 2, 3, 1)

    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        net = Net().to(dtype).eval()
        net.conv.weight.copy_(torch.rand_like(net.conv.weight.float()) / 27)
        torch.jit.freeze(torch.jit.trace(net, torch.zeros((1, *TILE, 3), dtype=torch.uint8))).save(str(path))
    return path


def test_runs_with_the_manifests_names_and_threads(artifact: Artifact, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        session = open_session(trace(tmp_path / "m.pt"), Target("torchscript", "fp32", 1), artifact.manifest)
        assert session.inputs == {"pixels": Port((1, *TILE, 3), "uint8")}
        answer = session.run({"pixels": photo(*TILE)[:, ::-1][None]})["restored"]
        assert answer.shape == (1, *TILE, 3)
        assert answer.dtype == np.float32
        assert torch.get_num_threads() == 1
        with pytest.raises(DataError, match="expected shape"):
            session.run({"pixels": np.zeros((1, 8, 8, 3), np.uint8)})
    finally:
        torch.set_num_threads(before)


def test_as_a_callable_model(artifact: Artifact, tmp_path: Path) -> None:
    model = Model.from_file(trace(tmp_path / "m.pt"), Target("torchscript"), artifact.manifest)
    assert model(photo(70, 90)).image.shape == (70, 90, 3)
    assert model.path == tmp_path


def test_without_a_manifest_outputs_are_numbered(tmp_path: Path) -> None:
    assert list(open_session(trace(tmp_path / "m.pt"), Target("torchscript")).run({"pixels": photo(9, 8)[None]})) == [
        "output0"
    ]


def test_more_outputs_than_the_manifest_names(artifact: Artifact, tmp_path: Path) -> None:
    twice = artifact.manifest.model_copy(update={"outputs": artifact.manifest.outputs * 2})
    manifest = twice.model_copy(
        update={"outputs": [x.model_copy(update={"name": f"o{i}"}) for i, x in enumerate(twice.outputs)]}
    )
    with pytest.raises(VerificationError, match="gives 1 outputs, the manifest names 2"):
        open_session(trace(tmp_path / "m.pt"), Target("torchscript"), manifest).run({"pixels": photo(*TILE)[None]})


def test_precision_is_the_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp32 weights, not bf16"):
        open_session(trace(tmp_path / "m.pt"), Target("torchscript", "bf16"))
    half = trace(tmp_path / "b.pt", torch.bfloat16)
    assert open_session(half, Target("torchscript", "bf16")).info.precision == "bf16"
    with pytest.raises(UsageError, match="bf16 weights, not fp32"):
        open_session(half, Target("torchscript"))


@pytest.mark.parametrize("content", [None, b"", b"junk" * 40])
def test_damaged_files(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(VerificationError, match="TorchScript cannot open it"):
        open_session(tmp_path / "m.pt", Target("torchscript"))


def test_damaged_weights_still_open_and_answer_differently(tmp_path: Path) -> None:
    file = trace(tmp_path / "m.pt")
    (tmp_path / "copy").mkdir()
    copy = damaged_copy("torchscript", [file], tmp_path / "copy")
    answers = [
        open_session(path, Target("torchscript")).run({"pixels": photo(*TILE)[None]})["output0"]
        for path in (file, copy)
    ]
    assert np.abs(answers[0] - answers[1]).max() > 10
    assert [p.name for p in (tmp_path / "copy").iterdir()] == ["m.pt"]
