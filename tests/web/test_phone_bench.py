"""``bench`` and ``fit`` with ``--target phone``, completed through Chromium: the page runs what the computer asks."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import pocketvit
from pocketvit.errors import VerificationError
from pocketvit.serve.phone import remote
from pocketvit.serve.phone.remote import connect
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.devices import ContactConfig
from pocketvit.spec.target import Target
from tests.tiny import TILE, make_tiny_artifact, photo

from ..train.helpers import classify_recipe, write_classes
from .browser import chromium, need_browser, phone, shot, until

pytestmark = pytest.mark.slow
HERE = ContactConfig("127.0.0.1", 0, "none", wait_seconds=60.0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    need_browser()
    with chromium() as found:
        yield found


class Measuring:
    """A command in a thread, and the address that it prints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, command: Callable[[], Any]) -> None:
        self.url, self.found, self.error = "", None, None
        monkeypatch.setattr(remote, "invite", self._invite)
        self.thread = threading.Thread(target=self._run, args=(command,), daemon=True)
        self.thread.start()

    def _invite(self, listener: Any, host: str, token: str, *, secure: bool) -> None:
        self.url, self.token = f"http://127.0.0.1:{listener.getsockname()[1]}", token

    def _run(self, command: Callable[[], Any]) -> None:
        try:
            self.found = command()
        except BaseException as error:
            self.error = error

    def answer(self, seconds: float = 120) -> Any:
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.found


@contextmanager
def page_of(browser: Any, measuring: Measuring, **options: Any) -> Iterator[Any]:
    end = time.monotonic() + 60
    while not measuring.url:
        assert time.monotonic() < end
        assert measuring.thread.is_alive(), measuring.error
        time.sleep(0.02)
    with phone(browser, measuring.url, f"#pair={measuring.token}", **options) as page:
        yield page


def status(page: Any) -> str:
    return page.inner_text("[role=status]")


def test_bench_through_chromium(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    options = {"contact": HERE, "target": "phone", "size": "60x80", "seconds": 0.3, "sustained_seconds": 3.0}
    measuring = Measuring(monkeypatch, lambda: pocketvit.bench(str(artifact.path), **options))
    with page_of(browser, measuring) as page:
        until(page, "document.querySelector('[role=status]').textContent.startsWith('sustained run of')")
        until(page, "/[0-9]+ rounds, [0-9] [/] 3 s/.test(document.body.innerText)")
        shot(page, "phone-bench")
        report = measuring.answer()
        until(page, "document.querySelector('[role=status]').textContent.startsWith('All is done')", 10)
        assert page.inner_text("[role=alert]") == ""
    (result,) = report.results
    assert (result.variant, result.engine[:16], result.device) == (
        "onnxruntime:fp32@phone",
        "onnxruntime-web ",
        "PHONE",
    )
    assert result.runs_per_image == 4
    assert len(result.total.times_ms) >= 15
    assert result.infer.p50 > 0
    assert "Chrome" in report.environment["user_agent"]
    assert report.environment["isolated"], "threads need it"
    (sustained,) = report.sustained
    assert 3 <= sustained.seconds < 20
    rows = read_artifact(artifact.path).manifest.benchmarks
    assert [row.variant for row in rows] == ["onnxruntime:fp32@phone"] * 2
    assert rows[0].p50_ms == pytest.approx(result.total.p50)


def test_two_classifiers_in_turns_in_spanish(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    both = {"target": "onnxruntime:fp32:1@phone", "other_target": "onnxruntime:fp32:1@phone"}
    options = both | {"contact": HERE, "seconds": 0.2, "sustained_seconds": 0.0, "store": False}
    measuring = Measuring(monkeypatch, lambda: pocketvit.bench(str(artifact.path), **options))
    with page_of(browser, measuring, locale="es-ES") as page:
        assert page.inner_text("h1") == "Midiendo en este teléfono"
        report = measuring.answer()
    first, second = report.results
    assert len(first.total.times_ms) == len(second.total.times_ms) == len(report.ratio.ratios)
    assert first.threads == 1
    assert first.pre.p50 > 0, "the page resizes as Python does, and that counts"
    assert read_artifact(artifact.path).manifest.benchmarks == []


def test_a_page_that_is_loaded_again_goes_on(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    options = {
        "contact": HERE,
        "target": "phone",
        "size": "48x64",
        "seconds": 0.1,
        "sustained_seconds": 1.0,
        "store": False,
    }
    measuring = Measuring(monkeypatch, lambda: pocketvit.bench(str(artifact.path), **options))
    with page_of(browser, measuring) as page:
        until(page, "document.querySelector('[role=status]').textContent.startsWith('sustained run of')")
        page.reload()
        assert measuring.answer().sustained[0].seconds >= 1


def test_a_wrong_token_is_said(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    options = {"target": "phone", "contact": replace(HERE, wait_seconds=2.0)}
    measuring = Measuring(monkeypatch, lambda: pocketvit.bench(str(artifact.path), **options))
    monkeypatch.setattr(measuring, "token", "another", raising=False)
    while not measuring.url:
        time.sleep(0.02)
    with phone(browser, measuring.url, "#pair=not-the-token") as page:
        until(page, "document.querySelector('[role=alert]').textContent !== ''")
        assert "this is not the address that was printed" in page.inner_text("[role=alert]")
        shot(page, "phone-bench-refused")
    with pytest.raises(pocketvit.errors.PocketvitError, match="no phone has come within 2 s"):
        measuring.answer()


def test_a_file_that_the_engine_refuses_and_one_behind_it(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "restore")
    model = onnx.load(artifact.path / "model.onnx")
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "bad.onnx")
    pixels, target = {"pixels": photo(*TILE)[None]}, Target(device="phone")

    def command() -> Any:
        with connect(HERE, lambda line: None) as there:
            bad = there.open(tmp_path / "bad.onnx", target, artifact.manifest)
            with pytest.raises(VerificationError, match="the phone's engine cannot open it") as refused:
                bad.run(pixels)
            assert "NoSuchOperator" in refused.value.what
            return there.open(artifact.path / "model.onnx", target, artifact.manifest).run(pixels)

    measuring = Measuring(monkeypatch, command)
    with page_of(browser, measuring):
        answer = measuring.answer()
    here = pocketvit.load(artifact.path).session.run(pixels)
    np.testing.assert_allclose(answer["restored"], here["restored"], atol=0.01)


def test_fit_times_its_candidates_on_the_phone(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "train.epochs": 2,
        "target": "phone",
        "contact": vars(HERE),
        "search": {"timing_seconds": 0.1, "quiet_seconds": 0, "trials": 1},
        "compress": {"steps": ["int8"], "calibration_images": 6, "library_default": False},
        "budget": {"latency_ms": 2000},
        "floor": {"max_drop": 60},
    }
    recipe = classify_recipe(write_classes(tmp_path / "d"), **fields)
    command = lambda: pocketvit.fit(recipe, name="a", runs=str(tmp_path), quiet=True)  # noqa: E731
    measuring = Measuring(monkeypatch, command)
    with page_of(browser, measuring) as page:
        report = measuring.answer(180)
        until(page, "document.querySelector('[role=status]').textContent.startsWith('All is done')", 10)
    timed = {row.precision: row for row in report.rows if row.timing is not None}
    assert set(timed) == {"fp32", "int8"}, [(row.name, row.reason) for row in report.rows]
    chosen = next(row for row in report.rows if row.chosen)
    assert chosen.key in ("onnxruntime:fp32", "onnxruntime:int8")
    assert chosen.timing is not None
    assert any(re.match("times are of the phone: .*Chrome.*every file gave there the answers", x) for x in report.notes)
    manifest = read_artifact(report.artifact).manifest
    assert manifest.verification is not None
    assert manifest.verification.passed
    assert {row.variant.partition("@")[2] for row in manifest.benchmarks} == {"phone"}
    row = next(row for row in manifest.benchmarks if row.variant == f"{chosen.key}@phone")
    assert row.p50_ms == pytest.approx(chosen.timing.p50)
    assert "Chrome" in row.environment["user_agent"]
    model = pocketvit.load(report.artifact)
    assert model.target.device == "cpu", "this machine runs the same file"
    assert model(tmp_path / "d" / "red" / "1.png").path[0] in ("red", "green", "blue")
