import os
import signal
import sys
import threading
import types

import pytest

from pocketvit.cli import main
from pocketvit.commands import COMMANDS, Command
from pocketvit.interrupts import Interrupted, deferred, terminable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_work_asks(number: int) -> None:
    before = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
    done = []

    def work() -> None:
        with deferred() as check:
            check()
            os.kill(os.getpid(), number)
            done.append("the step")
            check()
            done.append("another")

    with pytest.raises(Interrupted) as caught:
        work()
    assert done == ["the step"]
    assert caught.value.exit_code == 128 + number
    assert [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_nobody_asked_for_is_not_lost() -> None:
    with pytest.raises(Interrupted), deferred():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_ctrl_c_ends_at_once_but_a_second_sigterm_does_not() -> None:
    done = []

    def work() -> None:
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("still here")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("never")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert done == ["still here"]
    assert not isinstance(caught.value, Interrupted)


def test_what_is_ignored_stays_ignored_and_other_threads_are_let_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with deferred() as check, terminable():
            os.kill(os.getpid(), signal.SIGTERM)
            check()
    finally:
        signal.signal(signal.SIGTERM, before)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with deferred() as check, terminable():
                check()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signalled_command_ends_with_two_lines_and_its_code(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        """Ends itself."""
        os.kill(os.getpid(), number)

    module = types.ModuleType("ends_itself")
    module.work = work  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ends_itself", module)
    monkeypatch.setitem(COMMANDS, "work", Command("ends_itself:work", "ends itself"))
    assert main(["work"]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
