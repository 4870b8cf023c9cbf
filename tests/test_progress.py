from __future__ import annotations

import io
import sys

import pytest

from pocketvit import progress
from pocketvit.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stderr", sink)
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.0)
    with track("work", 3) as advance:
        advance()
    assert sink.getvalue() == ""


@pytest.mark.parametrize(("delay", "shown"), [(0.0, True), (60.0, False)])
@pytest.mark.parametrize("total", [3, None])
def test_a_bar_with_count_and_rate_after_the_delay(
    monkeypatch: pytest.MonkeyPatch, delay: float, shown: bool, total: int | None
) -> None:
    sink = Terminal()
    monkeypatch.setattr(sys, "stderr", sink)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(progress, "DELAY_SECONDS", delay)
    with track("counting sheep", total) as advance:
        for _ in range(3):
            advance()
    assert ("counting sheep" in sink.getvalue()) is shown
    assert ("3/3" in sink.getvalue()) is (shown and total == 3)
    assert ("/s" in sink.getvalue()) is shown


def test_the_bar_goes_away_on_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.0)

    def fail() -> None:
        with track("work", 2) as advance:
            advance()
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    with track("again", 1) as advance:  # rich allows one live display at a time
        advance()
    assert sys.stderr.isatty()
