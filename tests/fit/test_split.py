from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pocketvit.arguments import Arguments
from pocketvit.bench.timing import Timing
from pocketvit.cli import main
from pocketvit.commands import COMMANDS, Command
from pocketvit.errors import UsageError
from pocketvit.fit.split import split
from pocketvit.fit.split_run import Sample, Timed, choose
from pocketvit.models.trained import save_checkpoint
from pocketvit.terminal import rendered
from tests.export.nets import restorer
from tests.halves import network
from tests.tiny import photo


def timed(ms: float, spread: float = 0.1) -> Timed:
    times = Timing(tuple(ms + spread * (i % 5 - 2) for i in range(40)))
    return Timed(times, times, times, times, times, 1000.0)


def test_the_fastest_of_the_good_is_best_and_what_cannot_be_told_apart_is_named() -> None:
    ways = {"photo": timed(50), "block 1": timed(20), "block 2": timed(30, 3.0), "here": timed(30.5, 3.0)}
    assert choose(ways, set(ways)) == ("block 1", ())
    assert choose(ways, set(ways) - {"block 1"}) == ("block 2", ("here",))
    assert choose(ways, {"photo"}) == ("photo", ())


def test_parts_add_up() -> None:
    samples = [Sample(100 * k, 1.0 * k, 2.0, 3.0, 4.0, 9.0 + k) for k in (1, 2, 3)]
    found = Timed.of(samples)
    assert (found.bytes, found.client.p50, found.total.p50) == (200, 2.0, 11.0)
    assert found.to_dict()["link"]["p50_ms"] == 3.0


def test_bench_hands_over_to_split(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def instead(self: Command) -> Any:
        return (lambda *args, **given: asked.append((args, given))) if self is COMMANDS["split"] else plain(self)

    plain = Command.resolve
    monkeypatch.setattr(Command, "resolve", instead)
    assert main(["bench", "runs/x", "--split", "wifi", "5/20/40", "--seconds", "2"]) == 0
    assert asked == [(("runs/x",), {"links": ("wifi", "5/20/40"), "seconds": 2.0})]


def test_mistakes_are_named_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown link"):
        split("nowhere", links=("wify",))
    for wrong in ({"seconds": 0.0}, {"photos": 0}, {"links": ()}):
        with pytest.raises(UsageError, match="must be more than none"):
            split("nowhere", **wrong)
    save_checkpoint(tmp_path / "best", restorer())
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo(64, 72)).save(tmp_path / "photos" / "a.png")
    for data in (str(tmp_path / "photos"), None):  # also where nobody says which photos
        with pytest.raises(UsageError, match="is not cut in two"):
            split(str(tmp_path), data=data)


@pytest.mark.slow
def test_every_cut_is_measured_over_a_slow_link(tmp_path: Path) -> None:
    """A link so thin that what is sent decides: the class token alone beats the tokens, and all here beats both."""
    save_checkpoint(tmp_path / "run" / "best", network())
    for i, label in enumerate(("a/x", "a/x", "a/y", "b/z")):
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(64, 72, seed=i)).save(tmp_path / "photos" / label / f"{i}.png")
    given: dict[str, Any] = {"data": str(tmp_path / "photos"), "layout": "classes", "cuts": (1, 3), "photos": 4}
    report = split(str(tmp_path / "run"), links=("0.2/1/20",), seconds=0.5, out=str(tmp_path / "out"), **given)
    (result,) = report.links
    assert list(result.ways) == ["photo", "shrunk", "block 1", "block 3", "here"]
    ways = result.ways
    assert ways["here"].bytes == 0 < ways["block 3"].bytes < 100 < ways["block 1"].bytes < ways["photo"].bytes
    for name in ("photo", "block 1", "block 3"):
        assert ways[name].link.p50 >= 20 + ways[name].bytes * 8 / 200  # kbit/s: never faster than the link
    assert ways["here"].total.p50 < ways["block 3"].total.p50 < ways["block 1"].total.p50 < ways["photo"].total.p50
    assert result.best == "here"
    assert report.values["photo"] == report.values["here"]
    assert len(ways["photo"].total.times_ms) >= 5
    text = rendered(report.render())
    assert "Best over 0.2/1/20: here" in text
    document = json.loads((tmp_path / "out" / "split.json").read_text())
    assert document["links"][0]["best"] == "here"
    assert Image.open(tmp_path / "out" / "split.png").width > 500


def page_lines() -> list[str]:
    text = (Path(__file__).resolve().parents[2] / "docs" / "split.md").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.startswith("    pocketvit ")]


@pytest.mark.parametrize("line", page_lines())
def test_commands_of_the_page_are_understood(line: str) -> None:
    """What they do is run by the tests of export, serve, predict and split."""
    name, *words = shlex.split(line)[1:]
    assert Arguments(name, COMMANDS[name].resolve(), COMMANDS[name].sections).parse(words)


def test_the_page_shows_all_that_there_is() -> None:
    assert {shlex.split(line)[1] for line in page_lines()} == {"export", "serve", "predict", "split", "bench"}
