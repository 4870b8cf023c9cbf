"""Commands in processes of their own whose standard streams are closed, full, of another encoding or read by nobody."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pocketvit import cli
from pocketvit.bench.command import BenchReport
from pocketvit.fit.result import FitReport
from pocketvit.interrupts import Interrupted
from pocketvit.report.data import CandidateRow
from pocketvit.report.table import candidates_table
from pocketvit.spec.tasks.base import Measure
from pocketvit.terminal import cell, shown, table
from pocketvit.verify.checks import Check
from pocketvit.verify.command import VerifyReport
from pocketvit.verify.evaluate import EvalReport

COMMAND = """
import sys
from types import ModuleType
from pocketvit import cli
from pocketvit.commands import COMMANDS, Command

def bench(what: str = "text", *, more: int = 0):
    '''Say something.'''
    if what == "wait":
        import time
        print("ready", flush=True, file=sys.stderr)
        time.sleep(60)
    if what == "opens":  # what a closed stream leaves is not the next file that is opened
        with open("file.txt", "w") as file:
            print("said", flush=True)
            print("said", flush=True, file=sys.stderr)
            file.write("kept")
        return None
    print("while it runs", file=sys.stderr)
    if what == "table":
        from pocketvit.terminal import table
        class Report:
            def render(self): return table(["name"], [["[/x] " + chr(0x65e5)]])
        return Report()
    return {"name": chr(0x65e5) + chr(0xe9) + chr(0xdce9) + chr(0x1f600)} if what == "json" else chr(0x65e5) + "!"

module = ModuleType("said")
module.bench = bench
bench.__module__ = "said"
sys.modules["said"] = module
COMMANDS["bench"] = Command("said:bench", "test")
sys.exit(cli.main())
"""


def shell(line: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which RUN is ``pocketvit``; its standard streams are the line's."""
    (folder / "command.py").write_text(COMMAND)
    run = f"{sys.executable} {folder / 'command.py'}"
    return subprocess.run(
        ["bash", "-c", line.replace("RUN", run)],
        capture_output=True, text=True, errors="replace", timeout=60, cwd=folder, env=os.environ | env,
    )  # fmt: skip


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_end_nothing(tmp_path: Path, closed: str) -> None:
    run = shell(f"RUN bench table {closed}", tmp_path)
    assert (run.returncode, "Traceback" in run.stderr) == (0, False)
    assert (chr(0x65E5) in run.stdout) == (closed == "2>&-")


def test_files_do_not_take_the_place_of_closed_streams(tmp_path: Path) -> None:
    run = shell("RUN bench opens <&- >&- 2>&-", tmp_path)
    assert (run.returncode, (tmp_path / "file.txt").read_text()) == (0, "kept")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_full_streams(tmp_path: Path, buffered: str) -> None:
    for what in ("table", "json --json"):
        run = shell(f"RUN bench {what} > /dev/full", tmp_path, PYTHONUNBUFFERED=buffered)
        assert run.returncode == 3
        assert run.stderr.splitlines()[-2] == "standard output cannot be written (No space left on device)."
        assert "Traceback" not in run.stderr
    assert shell("RUN bench 2> /dev/full", tmp_path, PYTHONUNBUFFERED=buffered).returncode == 0
    assert shell("RUN nonsense > /dev/full 2> /dev/full", tmp_path, PYTHONUNBUFFERED=buffered).returncode == 2


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    run = shell("RUN bench table | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert run.returncode in (0, cli.BROKEN_PIPE)  # the line may be there before the reader goes
    assert run.stderr == "while it runs\n"
    run = shell("sleep 1; RUN bench table 2>&1 >out.txt | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert (run.returncode, chr(0x65E5) in (tmp_path / "out.txt").read_text(encoding="utf-8")) == (0, True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_has_not_is_escaped(tmp_path: Path, encoding: str) -> None:
    for what in ("text", "table"):
        run = shell(f"RUN bench {what}", tmp_path, PYTHONIOENCODING=encoding)
        assert (run.returncode, "Traceback" in run.stderr) == (0, False)
        assert r"\u65e5" in run.stdout
    run = shell("RUN bench json --json | cat > out", tmp_path, PYTHONIOENCODING=encoding)
    document = json.loads((tmp_path / "out").read_bytes().decode(encoding))
    assert document == {"name": "\u65e5\xe9\udce9\U0001f600"}


def test_interrupted_with_json_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    for flags in ([], ["--json"]):
        command = [sys.executable, str(tmp_path / "command.py"), "bench", "wait", *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err.splitlines() == ["interrupted.", "The same command begins anew; no half files are left."]
        assert (json.loads(out)["error"]["exit_code"] == 130) if flags else out == ""


def test_an_interrupted_command_says_what_was_done_about_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise Interrupted(todo="It goes on where it stopped.")

    monkeypatch.setattr(cli, "_run", stopped)
    assert cli.main(["train", "r.yaml"]) == 130
    assert capsys.readouterr().err == "interrupted.\nIt goes on where it stopped.\n"


@pytest.mark.parametrize(("command", "said"), [("train", "goes on from what was saved"), ("predict", "begins anew")])
def test_interrupted_before_anything_was_done(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stopped)
    assert cli.main([command, "x"]) == 130
    assert said in capsys.readouterr().err


ODD = "[/red] :smile: [bold]x[/bold] a\nb\x1b[31m\x85\u202e\udce9"
SEEN = r"[/red] :smile: [bold]x[/bold] a\nb\x1b[31m\x85\u202e\udce9"


def printed(report: object) -> str:
    """With rich as anybody may call it, markup on."""
    if isinstance(report, str):
        return report
    page = io.StringIO()
    Console(file=page, width=400).print(report)
    return page.getvalue()


def test_text_is_no_markup_and_moves_no_cursor() -> None:
    assert shown(ODD) == SEEN
    assert shown("日本 é 👩‍🔬 a\\b") == "日本 é 👩‍🔬 a\\b"
    assert SEEN in printed(table(["name"], [[shown(ODD)]]))
    assert printed(cell("one\ntwo [/x]")) == "one\ntwo [/x]\n"


def test_reports_show_names_as_they_are() -> None:
    odd = "[/red]:smile:"
    measure = Measure(odd, 1.0, odd, 1, 0.0, 1.0)
    reports = {
        "eval": EvalReport("a", odd, odd, odd, (measure,), 1, 1.0, (odd,)),
        "verify": VerifyReport(odd, Path(odd), (Check(odd, True, odd, odd),), True),
        "checks": VerifyReport("a", Path(odd), (Check(odd, True, odd, odd),), True),
        "fit": FitReport(Path(odd), Path(odd), odd, odd, odd, odd, (), (odd,)),
    }
    for name, report in reports.items():
        text = report.details() if name == "checks" else report.render()  # type: ignore[attr-defined]
        assert printed(text).count(odd) >= 2, name
    row = CandidateRow(odd, 1.0, 1.0, 1.0, 1.0, None, odd, odd)
    assert printed(candidates_table([row], odd, reasons=True)).count(odd) == 4
    bench = BenchReport((), None, {"flags": [], "cpu": odd, "cores": 1, "os": odd, "python": "3"}, (odd,))
    assert printed(bench.render()).count(odd) == 3
