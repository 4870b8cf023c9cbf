from __future__ import annotations

import io
import sys
import time

import pytest

from pocketvit import progress
from pocketvit.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal, and no delay; called in the test, as pytest sets sys.stderr before it."""
    sink = Terminal()
    monkeypatch.setattr(sys, "stderr", sink)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.0)
    return sink


def shown(sink: Terminal, text: str, seconds: float = 60.0) -> bool:
    """Whether the bar comes to show a text; it is drawn by threads of its own."""
    end = time.monotonic() + seconds
    while text not in sink.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    return text in sink.getvalue()


def test_silent_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stderr", sink)
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.0)
    with track("work", 3) as advance:
        advance()
        advance(2, note="two more")
    assert sink.getvalue() == ""


def test_silent_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with track("work", 3, quiet=True) as advance:
        advance(3, note="done")
        time.sleep(0.05)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("total", [30, None])
def test_a_bar_with_count_rate_and_note(monkeypatch: pytest.MonkeyPatch, total: int | None) -> None:
    terminal = open_terminal(monkeypatch)
    with track("counting sheep", total) as advance:
        assert shown(terminal, "counting sheep")
        advance(27, note="[white] one")
        advance()
        assert shown(terminal, "28/30" if total else "28/?")
        assert shown(terminal, "[white] one")
        assert "/s" in terminal.getvalue()


def test_nothing_is_shown_before_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(progress, "DELAY_SECONDS", 60.0)
    with track("counting sheep", 3) as advance:
        advance(3)
    assert terminal.getvalue() == ""


def test_the_bar_appears_while_the_first_part_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with track("one long part", 1):
        assert shown(terminal, "one long part")
        assert "0/1" in terminal.getvalue()


def test_work_within_work_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with track("outer", 2) as advance:
        assert shown(terminal, "outer")
        for _ in range(2):
            with track("inner", 5) as step:
                step(3)
                assert shown(terminal, "3/5")
            advance()
        assert shown(terminal, "2/2")


def test_the_bar_goes_away_on_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)

    def fail() -> None:
        with track("work", 2) as advance:
            advance()
            assert shown(terminal, "work")
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert sys.stderr is terminal
    with track("again", 1) as advance:  # rich allows one live display at a time
        advance()
        assert shown(terminal, "again")


@pytest.mark.parametrize("closed", [None, "closed"])
def test_no_standard_error_at_all(monkeypatch: pytest.MonkeyPatch, closed: str | None) -> None:
    stream = io.StringIO() if closed else None
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with track("work", 3) as advance:
        advance()
    assert sys.stderr is stream
