"""A device that is not of this machine is one module and one row: added from test code, it is benched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pocketvit
from pocketvit.bench.elsewhere import check_sustained, device_for
from pocketvit.bench.remote import here, prove
from pocketvit.errors import PocketvitError, UsageError, VerificationError
from pocketvit.runtimes.model import load
from pocketvit.spec import devices
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.devices import ContactConfig
from pocketvit.spec.target import Target
from tests import toaster
from tests.tiny import TILE, make_tiny_artifact, photo


@pytest.fixture(autouse=True)
def _toaster(monkeypatch: pytest.MonkeyPatch) -> toaster.Toaster:
    monkeypatch.setitem(devices.DEVICES, "toaster", toaster.DEVICE)
    monkeypatch.setattr(toaster, "TOASTER", [toaster.Toaster()])
    return toaster.TOASTER[0]


def test_a_device_is_one_module_and_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    report = pocketvit.bench(str(artifact.path), target="toaster", seconds=0.1, sustained_seconds=1)
    (result,) = report.results
    assert (result.variant, result.total.p50, result.engine[:5]) == ("onnxruntime:fp32@toaster", 5.0, "toast")
    rows = read_artifact(artifact.path).manifest.benchmarks
    assert [(row.variant, row.environment["device"]) for row in rows] == [("onnxruntime:fp32@toaster", "toaster")] * 2
    assert capsys.readouterr().err == "the toaster is warm\n"
    assert pocketvit.verify(str(artifact.path)).passed


def test_an_artifact_of_the_package_is_left_as_it_is() -> None:
    before = read_artifact("denoise-photo").manifest
    report = pocketvit.bench("denoise-photo", target="toaster", size="96x128", seconds=0.1, sustained_seconds=0)
    assert report.stored == ()
    assert any("its rows are only here" in warning for warning in report.warnings)
    assert read_artifact("denoise-photo").manifest == before


def test_answers_are_held_against_the_goldens_and_against_this_machine(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    toaster.TOASTER[0].off = lambda file: 3.0
    with pytest.raises(VerificationError, match="onnxruntime:fp32@toaster: its answers to the golden inputs are wrong"):
        pocketvit.bench(str(artifact.path), target="toaster", seconds=0.1)
    model, inputs = load(str(artifact.path)), photo(*TILE, seed=3)[None]
    reference = model.session.run({"pixels": inputs})
    prove(model, inputs, reference)
    for wrong in ({"restored": reference["restored"] + 1}, {"restored": reference["restored"][:, :1]}):
        with pytest.raises(VerificationError, match="tiny-restore onnxruntime:fp32: "):
            prove(model, inputs, wrong)

    class Broken:
        info, inputs, outputs = model.session.info, model.session.inputs, model.session.outputs

        def run(self, inputs: dict) -> dict:
            return {"restored": np.full_like(reference["restored"], np.nan)}

    with pytest.raises(VerificationError, match="output restored holds NaN or infinity"):
        prove(replace(model, session=Broken()), inputs, reference)


def test_what_a_device_slows_down_by_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, calls = make_tiny_artifact(tmp_path / "a", "restore"), [0]

    def slower(model: object) -> float:
        calls[0] += 1
        return 5.0

    toaster.TOASTER[0].ms = slower
    monkeypatch.setattr("pocketvit.bench.remote.Sustained.throttles", property(lambda self: True))
    report = pocketvit.bench(str(artifact.path), target="toaster", size="48x64", seconds=0.1, sustained_seconds=1)
    assert any("slows down as the toaster gets warm" in warning for warning in report.warnings)
    assert calls[0] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "openvino:fp32@phone"}, "phone runs no files of openvino"),
        ({"target": "onnxruntime:bf16@phone"}, "holds no variant onnxruntime:bf16@phone"),
        ({"target": "onnxruntime:fp32:1@phone", "other_target": "onnxruntime:fp32:2@phone"}, "differ in threads"),
        ({"target": "phone", "artifact": "nowhere"}, "no artifact there"),
    ],
)
def test_nobody_is_asked_to_open_an_address_for_what_cannot_be(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], words: str
) -> None:
    monkeypatch.setattr("pocketvit.bench.command.connect", None)
    with pytest.raises(PocketvitError, match=words):
        pocketvit.bench(options.pop("artifact", "denoise-color"), **options)


def test_targets_and_devices() -> None:
    assert Target.parse("phone") == Target("any", "any", device="phone")
    assert str(Target.parse("onnxruntime:int8:64@phone")) == "onnxruntime:int8:64@phone", "threads are the phone's"
    assert here(Target.parse("onnxruntime:int8@phone")) == Target("onnxruntime", "int8")
    assert here(Target.parse("onnxruntime:fp32@cuda")).device == "cuda"
    assert device_for(["phone", "onnxruntime:int8@phone"]) is devices.DEVICES["phone"]
    assert device_for([None, "onnxruntime:int8"]) is None
    for mixed in (["phone", None], ["onnxruntime:fp32", "phone"], ["phone", "toaster"]):
        with pytest.raises(UsageError, match="are not on one device"):
            device_for(mixed)
    assert [check_sustained(x) for x in (None, 0.0, 60.0)] == [600.0, 0.0, 60.0]
    for wrong in (-1.0, 1e6, float("nan")):
        with pytest.raises(UsageError, match="sustained_seconds"):
            check_sustained(wrong)
    for options in ({"port": 70_000}, {"wait_seconds": 0.0}, {"port": -1}):
        with pytest.raises(UsageError, match=f"contact.{next(iter(options))}"):
            ContactConfig(**options)
