"""docs/drift.md: its commands parse, and what it shows works on a server of its own."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from pocketvit.arguments import Arguments
from pocketvit.cli import split_flags
from pocketvit.commands import COMMANDS
from tests.serve.asking import server
from tests.tiny import coloured, make_tiny_artifact

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "drift.md").read_text(encoding="utf-8")
COMMAND_LINES = re.findall(r"^(pocketvit .+?)(?: #.*)?$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_parse(line: str) -> None:
    _, words = split_flags(shlex.split(line)[1:])
    command = COMMANDS[words[0]]
    assert Arguments(words[0], command.resolve(), command.sections).parse(words[1:])


def test_all_options_of_watching_are_shown() -> None:
    shown = " ".join(COMMAND_LINES)
    for option in ("--watch.folder", "--watch.reference", "--watch.alert_url", "--collect"):
        assert option in shown


@pytest.mark.slow
def test_what_is_shown_works(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify").path
    (tmp_path / "expected").mkdir()
    for i in range(32):
        Image.fromarray(coloured(i % 4, seed=i)).save(tmp_path / "expected" / f"{i}.png")
    options = (
        "--watch.folder",
        tmp_path / "drift",
        "--watch.reference",
        tmp_path / "expected",
        "--collect",
        tmp_path / "kept",
    )
    with (
        server(artifact, *options, "--watch.alert_url", "http://127.0.0.1:9/") as one,
        httpx.Client(timeout=60) as http,
    ):
        photo = (tmp_path / "expected" / "3.png").read_bytes()
        dark = tmp_path / "dark.png"
        Image.fromarray((coloured(1) * 0.3).astype(np.uint8)).save(dark)
        ends = time.monotonic() + 30  # a busy machine leaves requests unwatched
        while "drift" not in {row["status"] for row in http.get(f"{one.url}/v1/drift").json()["models"]}:
            assert time.monotonic() < ends
            assert http.post(f"{one.url}/v1/classify", files={"image": ("x.png", dark.read_bytes())}).status_code == 200
        sent = http.post(f"{one.url}/v1/feedback?model=tiny-classify&label=blue", files={"image": ("x.png", photo)})
        assert sent.status_code == 201
        assert "<svg" in http.get(f"{one.url}/v1/drift/page").text
        assert "/v1/feedback" in http.get(f"{one.url}/docs").text
        code, _ = one.terminate()
    assert code == 0
    assert any(line["event"] == "drift" and line["model"] == "tiny-classify" for line in one.lines)
    assert one.other == []
    assert (tmp_path / "kept" / "tiny-classify" / "corrections.txt").read_text().endswith(",blue,cold\n")
